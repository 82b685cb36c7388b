"""Convert `jobs/tour.py` to a notebook: `python -m tests.support.notebook` rewrites `jobs/tour.ipynb`."""

import json
from typing import Any

from tests.conftest import ROOT

SCRIPT, NOTEBOOK = ROOT / "jobs" / "tour.py", ROOT / "jobs" / "tour.ipynb"
MARK, TEXT = "# %%", " [markdown]"


def render(script: str) -> dict[str, Any]:
    """Convert a script in percent format to a notebook, one cell per mark."""
    parts = [part.partition("\n") for part in script.split(MARK)[1:]]
    cells = [_cell(index, head, body.strip("\n")) for index, (head, _, body) in enumerate(parts)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cell(index: int, head: str, body: str) -> dict[str, Any]:
    shared = {"id": f"cell-{index}", "metadata": {}}
    if head == TEXT:
        return {"cell_type": "markdown", **shared, "source": body.strip('"\n').splitlines(keepends=True)}
    title = f"#{head}\n" if head else ""
    source = f"{title}{body}".splitlines(keepends=True)
    return {"cell_type": "code", **shared, "execution_count": None, "outputs": [], "source": source}


if __name__ == "__main__":
    NOTEBOOK.write_text(json.dumps(render(SCRIPT.read_text()), indent=1) + "\n")
