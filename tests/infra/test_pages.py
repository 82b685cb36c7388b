"""Pages of infra/: sections of each target, correct arithmetic, and names of existing files and jobs."""

import re

import pytest

from tests.infra.files import ROOT, shipped
from tests.support.equations import equations, value

FILES = shipped()
TARGETS = ("aws.md", "gcp.md", "kubernetes.md", "slurm.md")
PAGES = sorted(name for name in FILES if name.endswith(".md"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_has_every_section(name):
    for part in ("Before.", "Start.", "Watch.", "Stop.", "What it costs."):
        assert f"**{part}**" in FILES[name], part


@pytest.mark.parametrize("name", TARGETS)
def test_the_arithmetic_of_a_page_is_right(name):
    found = list(equations(FILES[name]))
    assert found
    for equation in found:
        left, right = equation.split(" = ")
        assert value(left) == pytest.approx(float(right), rel=0.02), equation


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_only_existing_files_jobs_and_images(name):
    text = FILES[name]
    for file in re.findall(r"infra/([\w.-]+\w)", text) + re.findall(r"\]\(([\w.-]+)\)", text):
        assert file in FILES, file
    for module in re.findall(r"\bjobs\.([a-z_]+)", text):
        assert (ROOT / "jobs" / f"{module}.py").exists(), module
    for image, target in re.findall(r"shapelake:(\S+-(cpu|gpu))\b", text):
        assert image in FILES["Dockerfile"], target


def test_every_file_is_mentioned_on_a_page():
    pages = " ".join(FILES[name] for name in PAGES)
    files = set(FILES) - set(PAGES) - {"Dockerfile.dockerignore"}
    assert {name for name in files if name not in pages} == set()
