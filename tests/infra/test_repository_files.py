"""Top-level repository files: citation, CI workflow and pre-commit hooks agree with pyproject.toml and the Makefile."""

import re
import tomllib
from typing import Any

import yaml

from tests.infra.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def lint_commands() -> list[str]:
    """Commands of the Makefile target lint, without the pyright run."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    commands = [line.strip().removeprefix("@").replace("$(VENV)", ".venv") for line in recipe[1].splitlines()]
    return [command for command in commands if "pyright" not in command]


def test_the_citation_describes_this_version_and_the_paper():
    citation = load("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    for field in ("title", "version", "license"):
        project_field = PROJECT["project"]["name" if field == "title" else field]
        assert str(citation[field]) == project_field, field
    assert citation["message"]
    assert citation["authors"]
    (paper,) = citation["references"]
    assert paper["title"].startswith("The Shape of Learning")
    assert [author["family-names"] for author in paper["authors"]] == [
        *("Razzhigaev", "Mikhalchuk", "Goncharova", "Oseledets", "Dimitrov", "Kuznetsov")
    ]
    assert "EACL 2024" in paper["collection-title"]
    assert {"arXiv:2311.05928"} == {entry["value"] for entry in paper["identifiers"]}


def test_ci_runs_the_ci_script_with_the_oldest_supported_python_and_no_secrets():
    workflow = load(".github/workflows/ci.yml")
    (job,) = workflow["jobs"].values()
    checkout, python, run = job["steps"]
    assert checkout["uses"].startswith("actions/checkout@")
    assert python["uses"].startswith("actions/setup-python@")
    assert f">={python['with']['python-version']}" == PROJECT["project"]["requires-python"]
    assert run == {"run": "bash .ci/run"}
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in (ROOT / ".github/workflows/ci.yml").read_text()


def test_the_ci_script_runs_lint_and_tests():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert {"make lint", "make test"} <= set(lines)


def test_pre_commit_hooks_are_local_and_run_the_commands_of_make_lint():
    (repo,) = load(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    assert [hook["entry"] for hook in repo["hooks"]] == lint_commands()
    for hook in repo["hooks"]:
        assert hook["language"] == "system", "system hooks download nothing"
        assert hook["pass_filenames"] is False
