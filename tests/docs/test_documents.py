"""Every document: its links lead somewhere, its snippets run, and the README has what a newcomer needs."""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import typer
import yaml

from pipeline.cli.app import app
from pipeline.lake import Lake
from pipeline.spec import Sweep
from tests.support import tiny_checkpoints as tiny

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()
)  # fmt: skip
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

NOT_RUN = {
    "make": "installs the environment that runs this test; CI runs the targets themselves",
    "source": "activates the environment that runs this test",
    "pip": "installs packages",
    "pytest": "a test suite is not run by a test",
    "python": "a module of its own; jobs and generators have their own tests",
    "git": "a repository of its own",
    "ray": "needs a cluster; infra/ is tested by tests/infra",
    "kubectl": "needs a cluster",
    "helm": "needs a cluster",
    "docker": "needs an engine",
    "sbatch": "needs SLURM; infra/slurm.sbatch is tested by tests/infra",
    "squeue": "needs SLURM",
    "scancel": "needs SLURM",
    "aws": "needs an account",
    "gcloud": "needs an account",
    "gsutil": "needs an account",
    "az": "needs an account",
    "export": "sets a variable for the commands after it",
    "kind": "needs an engine",
    "ssh": "needs a host",
    "curl": "needs a network",
    "RAY_AUTH_MODE": "sets a variable for a cluster",
    "pre-commit": "installs hooks into the checkout",
    "chmod": "changes files of an installation",
    "umask": "changes the shell",
    "install": "changes files of an installation",
    "openssl": "writes a secret",
    "wandb": "needs an account",
    "TRACKIO_DIR": "starts a server",
    "tensorboard": "starts a server",
}
"""First word of a shell line that no test runs -> reason. `shapelake` lines are always checked."""


def blocks(name: str) -> Iterator[tuple[str, str]]:
    """(language, text) of the fenced blocks of a document."""
    yield from FENCE.findall((ROOT / name).read_text())


def commands(name: str) -> Iterator[list[str]]:
    """Shell lines of a document as words; continued lines joined, comments dropped."""
    for language, text in blocks(name):
        if language in ("", "bash", "sh", "shell"):
            for line in text.replace("\\\n", " ").splitlines():
                if words := shlex.split(line.removeprefix("$ "), comments=True):
                    yield words


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files(name):
    text = re.sub(FENCE, "", (ROOT / name).read_text())
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name} links to {target}"


@pytest.mark.parametrize("name", NAMES)
def test_every_shell_line_is_a_valid_command_or_has_a_reason(name):
    """Options of this package's commands must exist; other first words are listed with a reason."""
    program = typer.main.get_command(app)
    assert isinstance(program, click.Group) or hasattr(program, "commands")
    for words in commands(name):
        if words[0] != "shapelake":
            first = words[0].rsplit("/", 1)[-1].split("=")[0]
            assert first in NOT_RUN or name.startswith(("infra/", "jobs/")), f"{name}: {' '.join(words)}"
            continue
        if len(words) > 1 and words[1] != "--help":
            command = program.commands[words[1]]  # type: ignore[attr-defined]
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            used = {word.split("=")[0] for word in words[2:] if re.match(r"--[a-z]|-[a-z]$", word)}
            assert used - known - {"--help"} == set(), f"{name}: {' '.join(words)}"


def test_every_document_is_listed_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)#\s]+)\)", readme))
    template = "pipeline/export/dataset_card.md"
    beside = {"README.md", "tests/golden/README.md", template} | {n for n in NAMES if n.startswith("infra/")}
    assert set(NAMES) - beside - linked == set()


def test_the_readme_is_short_and_says_how_to_start():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.encode()) <= 10_000
    for needed in ("make demo", "make test", ".[gpu]", "Apache-2.0", "CITATION.cff", "duckdb", "pl.scan", "pd.read"):
        assert needed in readme, needed


def test_the_code_tour_names_what_is_in_the_files():
    tour = (ROOT / "README.md").read_text().split("## Code tour")[1].split("\n## ")[0]
    steps = re.findall(r"\((pipeline/[\w/]+\.py)\)\s+`(\w+)`", tour)
    assert len(steps) >= 10
    for file, name in steps:
        assert re.search(rf"^\s*(def|class) {name}\b|^{name}\b", (ROOT / file).read_text(), re.MULTILINE), (file, name)


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder in which the README's own sweep can be run: three small checkpoints and a text."""
    steps = [0, 1, 512]
    tiny.history(tmp_path / "runs" / "my-model", steps)
    tiny.text(tmp_path / "book.txt", 60_000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def yaml_blocks(name: str) -> list[dict]:
    return [yaml.safe_load(text) for language, text in blocks(name) if language == "yaml"]


def test_every_yaml_snippet_is_a_sweep():
    found = [
        fields for name in NAMES for fields in yaml_blocks(name) if "checkpoints" in fields and "corpora" in fields
    ]
    assert len(found) >= 2
    for fields in found:
        assert Sweep.model_validate({"recipe": "quick@1", **fields}).name == fields["name"]


def test_the_readmes_own_sweep_runs_with_its_commands(workplace, capsys, monkeypatch):
    """Plan, run, status, findings, report, metrics, measure and query as the README writes them, with a tiny recipe."""
    from pipeline.cli import main

    (fields, *_) = yaml_blocks("README.md")
    (workplace / "sweep.yaml").write_text(yaml.safe_dump(fields | {"recipe": tiny.RECIPE}))
    ran = []
    for words in commands("README.md"):
        if words[0] != "shapelake" or {"hub.yaml", "submit", "catalog", "audit"} & set(words):
            continue
        words = [yaml.safe_dump(tiny.RECIPE) if word == "quick@1" else word for word in words]
        words += ["--backend", "inline"] if words[1] == "run" else []
        monkeypatch.setattr("sys.argv", words)
        assert _exit_code(main) == 0, (words, capsys.readouterr())
        ran.append(words[1])
    assert {"plan", "run", "status", "findings", "report", "metrics", "measure"} <= set(ran)
    assert (workplace / "report.html").stat().st_size > 10_000
    assert len(Lake(workplace / "lake").committed_cell_ids()) == 6
    _read_the_lake(workplace)


def _exit_code(program: Callable[[], None]) -> object:
    try:
        program()
    except SystemExit as end:
        return end.code or 0
    return 0


def _read_the_lake(workplace: Path) -> None:
    """The README's three lines of duckdb, polars and pandas on the lake of the sweep."""
    import duckdb
    import pandas as pd
    import polars as pl

    (lines,) = [text for language, text in blocks("README.md") if language == "python" and "duckdb.sql" in text]
    names = {"duckdb": duckdb, "pd": pd, "pl": pl}
    counts = [len(_rows(eval(line, names))) for line in lines.splitlines()]
    assert counts == [6 * 4] * 3


def _rows(result) -> list:
    if hasattr(result, "fetchall"):
        return result.fetchall()
    return result.collect().rows() if hasattr(result, "collect") else result.values.tolist()


def test_the_readmes_notebook_snippet_runs():
    import torch

    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1200, 16, generator=generator)
    names = {
        "points": points,
        "contexts": torch.arange(1200) // 20,
        "ids": torch.arange(1200) % 50,
        "groups": torch.arange(1200) // 400,
    }
    (snippet,) = [text for language, text in blocks("README.md") if language == "python" and "describe(" in text]
    exec(snippet, names)
    assert names["row"]["id_twonn_se"] > 0
