"""Tokenizers with more ids than the embedding: a flag if the text uses none of them, an error that names them if so."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from tests.support import tiny_checkpoints as tiny


def measure(folder: Path, text: Path, shapelake: Any) -> tuple[int, str, str]:
    recipe = yaml.safe_dump(tiny.RECIPE, default_flow_style=True)
    return shapelake("measure", folder, "--corpus", f"text:{text}", "--recipe", recipe, "--json")


@pytest.mark.parametrize("special", [True, False])
def test_an_added_token_beyond_the_embedding(special: bool, tmp_path: Path, shapelake: Any) -> None:
    folder = tiny.checkpoint(tmp_path / "step1", 0)
    code, out, _ = measure(folder, text := tiny.text(tmp_path / "prose.txt"), shapelake)
    plain = json.loads(out)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=special)
    tokenizer.save_pretrained(folder)
    code, out, _ = measure(folder, text, shapelake)
    assert code == 0
    rows = json.loads(out)
    assert all("ids_beyond_embedding" in row["flags"] for row in rows)
    assert [row["anisotropy"] for row in rows] == [row["anisotropy"] for row in plain]
    if not special:
        text.write_text(text.read_text().replace(" space", " <|im_end|>"))
        code, _, err = measure(folder, text, shapelake)
        assert (code, err.count("\n")) == (2, 2)
        assert "yields id 258, and the model accepts ids below 258 (1 ids: 258)" in err
