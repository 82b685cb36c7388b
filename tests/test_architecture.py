"""Table of imports: which package may import which, and which file owns which heavy library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pipeline"

BASE = {"terminal", "errors", "strict_model", "columns", "cache", "output_paths"}
SPEC = BASE | {"corpus", "recipe", "similarity", "sources", "spec"}
MAY_IMPORT = {
    "terminal": set(),
    "errors": {"terminal"},
    "strict_model": set(),
    "columns": set(),
    "cache": {"errors"},
    "output_paths": {"errors"},
    "metric_docs": BASE,
    "recipe": BASE,
    "sources": BASE,
    "corpus": BASE,
    "similarity": BASE,
    "spec": BASE | {"corpus", "recipe", "similarity", "sources"},
    "progress": {"terminal"},
    "hashing": BASE | {"progress"},
    "catalog": SPEC | {"hashing", "progress"},
    "corpora": SPEC | {"hashing", "progress"},
    "geometry": SPEC,
    "model": SPEC | {"catalog"},
    "measurement": SPEC | {"catalog", "corpora", "geometry", "model"},
    "measure": SPEC | {"progress", "corpora", "geometry", "model", "measurement"},
    "lake": SPEC | {"progress"},
    "analysis": BASE | {"progress", "lake", "similarity"},
    "export": BASE | {"analysis", "catalog", "lake"},
    "report": BASE | {"progress", "analysis", "lake"},
    "sweep": SPEC | {"progress", "catalog", "corpora", "lake", "measure", "measurement", "model"},
    "render": SPEC | {"catalog", "lake", "sweep"},
    "demo": SPEC | {"hashing", "progress", "lake", "report", "sweep", "render"},
    "doctor": SPEC | {"catalog", "geometry", "lake"},
    "integrations": SPEC | {"geometry", "model", "watch"},
    "watch": SPEC | {"catalog", "lake", "sweep"},
    "cli": SPEC
    | {"watch", "metric_docs", "catalog", "lake", "sweep", "render", "demo", "analysis", "export", "report", "doctor"},
    "__main__": {"cli"},
    "__init__": set(),
}
OWNERS = {
    "torch": {
        *("doctor", "geometry", "model", "measurement", "measure", "demo"),
        *("integrations", "watch/__init__"),
    },
    "transformers": {"model", "demo", "integrations"},
    "tokenizers": {"demo"},
    "faiss": {"doctor", "geometry"},
    "ray": {f"sweep/ray_{name}" for name in ("backend", "cluster", "errors", "jobs")},
    "pyarrow": {"lake", "corpora/records", "corpora/text_io"},  # Parquet and zstd; loaded when met
    "obstore": {"lake/object_store"},
    "duckdb": {"lake", "render"},
    "pandas": {"lake"},
    "scipy": {"analysis"},
    "polars": {"lake", "analysis", "export", "report", "doctor"},
    "huggingface_hub": {"catalog", "export/dataset"},
    "typer": {"cli"},
    "rich": {"progress", "sweep/run_progress", "render", "demo", "cli"},
    "altair": {"report"},
    "tensorboard": {"export/to_tensorboard"},
    "wandb": {"export/to_wandb"},
    "trackio": {"export/to_trackio"},
    "vl_convert": {"report"},
    "jinja2": {"report"},
}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Yield (path without suffix, first part, syntax tree) of every module of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        yield name, name.split("/")[0], ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_go_one_way():
    wrong = [
        f"{name} imports {target}"
        for name, part, tree in modules()
        for target in imports(tree)
        if target.startswith("pipeline.") and (other := target.split(".")[1]) != part and other not in MAY_IMPORT[part]
    ]
    assert not wrong


def test_every_heavy_library_has_its_owner():
    wrong = [
        f"{name} imports {target}"
        for name, part, tree in modules()
        for target in imports(tree)
        if (owners := OWNERS.get(target.split(".")[0])) is not None and not {name, part} & owners
    ]
    assert not wrong


HEAVY = ("torch", "transformers", "ray", "scipy")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["plan", "{sweep}", "--lake", "{lake}"],
        ["status", "--lake", "{lake}"],
        ["query", "select count(*) from layers", "--lake", "{lake}"],
    ],
    ids=lambda words: words[0],
)
def test_reading_commands_start_without_the_heavy_libraries(words, tmp_path):
    """Reading commands start in 0.3 to 1.1 s on 2 cores, `query` slowest."""
    sweep, lake = _finished(tmp_path)
    _without_heavy_libraries([word.format(sweep=sweep, lake=lake) for word in words])


def test_a_rerun_of_a_finished_sweep_starts_neither_ray_nor_torch(tmp_path):
    sweep, lake = _finished(tmp_path)
    before = sorted(path for path in lake.rglob("*") if path.is_file())
    _without_heavy_libraries(["run", str(sweep), "--lake", str(lake), "--backend", "ray"])
    assert sorted(path for path in lake.rglob("*") if path.is_file()) == before


def _finished(folder: Path) -> tuple[Path, Path]:
    """Write a sweep file over a stub history, and a lake with all its cells."""
    from pipeline.lake import Lake
    from pipeline.sweep.config import load_sweep
    from pipeline.sweep.plan import make_plan
    from pipeline.sweep.run import run
    from tests.support import stub_checkpoints as stub

    root = stub.history(folder / "runs", [0, 1, 2])
    (folder / "sweep.yaml").write_text(
        f"name: t\ncheckpoints: [{{local: {root}}}]\ncorpora: [{{random-uniform: {{}}}}]\nrecipe: quick@1\n"
    )
    lake = Lake(folder / "lake")
    report = run(make_plan(load_sweep(str(folder / "sweep.yaml")), lake), lake, "inline", stub.work)
    assert (report.exit_code, report.committed) == (0, 3)
    return folder / "sweep.yaml", folder / "lake"


def _without_heavy_libraries(words: list[str]) -> None:
    """Run the command in a new process, which must succeed and load no heavy library."""
    script = (
        "import sys; sys.argv = ['shapelake', *sys.argv[1:]]\n"
        "from pipeline.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('LOADED', [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=PACKAGE.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stderr
