"""Every causal and masked class of transformers: measured rightly or refused, and the table that says so."""

import os
from pathlib import Path

import pytest
import transformers

from tests.support.class_scan import Outcome, scan_class
from tests.support.tiny_classes import class_names

PAGE = Path(__file__).resolve().parents[2] / "pipeline" / "model" / "classes.md"
WRITE = os.environ.get("SHAPELAKE_WRITE_CLASSES") == "1"
"""Set to write the page from the outcomes in place of a comparison."""
SAMPLE = ("GPT2LMHeadModel", "BertForMaskedLM", "ViTMAEForPreTraining", "FunnelForMaskedLM")


def render(outcomes: list[Outcome]) -> str:
    """Return the page as Markdown: counts, and a table of all classes."""
    counts = {kind: sum(o.outcome == kind for o in outcomes) for kind in ("fine", "refused", "wrong", "unbuilt")}
    lines = [
        "# Model classes",
        "",
        f"All {len(outcomes)} causal and masked classes of transformers {transformers.__version__} with tiny random",
        "configs, written by `tests/model/test_every_class.py`: "
        + ", ".join(f"{count} {kind}" for kind, count in counts.items())
        + ".",
        "Fine: captured states equal the model's own, and the direction of attention matches the kind. Refused:",
        "loading raises an error. Unbuilt: the test has no small config; the class is checked at loading.",
        "",
        "| class | outcome | kinds, or reason |",
        "|---|---|---|",
    ]
    rows = [f"| {o.name} | {o.outcome} | {_cell(o.why)} |" for o in outcomes]
    return "\n".join((*lines, *rows)) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_class_is_measured_wrongly() -> None:
    outcomes = [scan_class(name) for name in class_names() if not name.startswith("AutoModel")]
    if WRITE:
        PAGE.write_text(render(outcomes))
    assert not [outcome for outcome in outcomes if outcome.outcome == "wrong"]
    listed = dict(line.split(" | ")[:2] for line in PAGE.read_text().splitlines() if line.startswith("| "))
    assert {f"| {o.name}": o.outcome for o in outcomes}.items() <= listed.items()


@pytest.mark.parametrize("name", SAMPLE)
def test_the_page_has_the_outcome_of_a_sample(name: str) -> None:
    outcome = scan_class(name)
    assert f"| {name} | {outcome.outcome} |" in PAGE.read_text()
    assert outcome.outcome != "wrong"
