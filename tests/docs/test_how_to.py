"""The how-to lists of CONTRIBUTING.md: each change, made on a copy in exactly the listed files, works."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the package and of what its tests need."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("pipeline", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    return folder


class Change:
    """Edits of a copy; remembers which files they touched."""

    def __init__(self, copy: Path) -> None:
        self.copy, self.touched = copy, set()

    def replace(self, name: str, old: str, new: str) -> None:
        text = self._touch(name).read_text()
        assert old in text, f"{name} has no {old!r}"
        (self.copy / name).write_text(text.replace(old, new, 1))

    def append(self, name: str, text: str) -> None:
        path = self._touch(name)
        path.write_text((path.read_text() if path.exists() else "") + text)

    def generate(self, name: str) -> None:
        """Regenerate all pages; only the named one may change."""
        before = self._texts()
        self.python("-m", "tests.docs.pages")
        assert {page for page, text in self._texts().items() if text != before[page]} == {name}
        self._touch(name)

    def _texts(self) -> dict[str, str]:
        return {page: (self.copy / page).read_text() for page in ("pipeline/columns.md", "pipeline/cli/reference.md")}

    def python(self, *words: str) -> str:
        """Standard output of a Python process that imports the copy."""
        done = subprocess.run([sys.executable, *words], cwd=self.copy, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _touch(self, name: str) -> Path:
        self.touched.add(name)
        return self.copy / name


def listed(title: str, name: str) -> set[str]:
    """Files of a how-to, NAME replaced."""
    section = re.search(rf"^## How to {title}\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    assert section, title
    return {file.replace("NAME", name) for file in re.findall(r"^- `(\S+)`:", section[1], re.MULTILINE)}


def test_a_metric(copy):
    change = Change(copy)
    change.append(
        "pipeline/geometry/metrics/kurtosis.py",
        '''"""Kurtosis of the lengths of hidden states."""

from pipeline.geometry.layer import Layer, MetricValues

COLUMNS = ("norm_ratio",)
TIMING_COLUMN = "spectrum_s"


def measure(layer: Layer) -> MetricValues:
    """Return the column of this group."""
    return {"norm_ratio": norm_ratio(layer)}


def norm_ratio(layer: Layer) -> float:
    """Largest length of a token over the mean length.

    Source: a how-to.
    Bias: none.
    """
    norms = layer.moments.norm_statistics
    return norms.largest / float(norms.sample.mean())
''',
    )
    change.append("pipeline/columns.csv", "norm_ratio,float64,norms,1,largest length of a token over the mean length\n")
    change.replace("pipeline/spec.py", '"norms": 4', '"norms": 5')
    change.generate("pipeline/columns.md")
    assert change.touched == listed("add a metric", "kurtosis")
    assert "norm_ratio" in (copy / "pipeline/columns.md").read_text()
    row = change.python(
        "-c",
        "import torch; from pipeline.geometry import describe\n"
        "points = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))\n"
        "print(describe(points)['norm_ratio'], (points.norm(dim=1).max() / points.norm(dim=1).mean()).item())",
    )
    measured, expected = map(float, row.split())
    assert measured == pytest.approx(expected, rel=1e-5)
    assert "a how-to" in change.python("-m", "pipeline", "metrics", "norm_ratio")


def test_a_family(copy):
    change = Change(copy)
    change.append(
        "pipeline/catalog/families.yaml",
        """
how-to:
  ids: [lab/how-to-1b]
  where: branches
  rev: 'update(?P<step>\\d+)'
  kind: decoder
  norm: pre
  tiers: {"*": small}
  source: https://example.org
  examples: {update250: {step: 250}}
""",
    )
    assert change.touched == listed("add a family", "how-to")
    assert "lab/how-to-1b" in change.python("-m", "pipeline", "catalog", "how-to")
    parse = "from pipeline.catalog.families import find_family; print(find_family(REPO).parse_name(REPO, 'update250'))"
    assert "step=250" in change.python("-c", parse.replace("REPO", "'lab/how-to-1b'"))


def test_a_command(copy):
    change = Change(copy)
    change.append(
        "pipeline/cli/hello.py",
        '''"""Command of a how-to: hello."""

import typer

from pipeline.cli.app import app


@app.command()
def hello(name: str) -> None:
    """Greet.

    Example: shapelake hello you
    """
    typer.echo(f"hello {name}")
''',
    )
    change.replace("pipeline/cli/__init__.py", "exports,", "exports, hello,")
    change.generate("pipeline/cli/reference.md")
    assert change.touched == listed("add a command", "hello")
    assert change.python("-m", "pipeline", "hello", "you").strip() == "hello you"
    assert "shapelake hello you" in (copy / "pipeline/cli/reference.md").read_text()


def test_a_failure_class(copy):
    change = Change(copy)
    change.replace("pipeline/sweep/retry_policy.py", '    "not_begun",\n]', '    "not_begun",\n    "licence",\n]')
    change.replace(
        "pipeline/sweep/retry_policy.py",
        '    "not_begun": FailurePolicy(',
        '    "licence": FailurePolicy("no licence", 2, quarantines="yes"),\n    "not_begun": FailurePolicy(',
    )
    change.replace(
        "pipeline/sweep/worker.py",
        "    LakeError: ",
        '    type("LicenceError", (ShapelakeError,), {}): "licence",\n    LakeError: ',
    )
    row = "| `licence` | no licence | 2 | yes | yes | no | repeat |\n"
    change.replace("pipeline/sweep/failures.md", "| `not_begun` |", f"{row}| `not_begun` |")
    assert change.touched == listed("add a failure class", "licence")
    ran = change.python(
        "-c",
        "import sys; from pathlib import Path\n"
        "from pipeline.lake import Lake\n"
        "from pipeline.sweep.plan import make_plan\n"
        "from pipeline.sweep.run import run\n"
        "from pipeline.sweep.task import fail_all_cells\n"
        "from tests.support import stub_checkpoints as stub\n"
        "root = stub.history(Path('runs'), [0]); lake = Lake('lake')\n"
        "report = run(make_plan(stub.sweep(root), lake), lake, 'inline', lambda t: fail_all_cells(t, 'licence', 'x'))\n"
        "counts = sum(lake.failure_counts().values(), start=__import__('collections').Counter())\n"
        "print(report.exit_code, counts['licence'], len(lake.quarantined_cell_ids()))",
    )
    assert ran.split() == ["1", "2", "1"]
    change.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/docs/test_failures_page.py")
