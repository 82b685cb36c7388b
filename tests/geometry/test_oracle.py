"""The published code's own numbers on a small decoder's training history."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.geometry import Cloud, Stream, describe_layer
from pipeline.recipe import SnippetRecipe

RECIPE = SnippetRecipe(name="oracle", version=1, snippets=128, max_tokens=128, k=2)


@pytest.mark.parametrize("step", [0, 3000])
def test_the_published_numbers(step: int, shared: Callable[[str], Path]) -> None:
    """Anisotropy to 1e-6 absolute, linearity likewise, id_authors to 1e-6 relative, on every state."""
    expected = json.loads(shared("oracles/wiki-neox.json").read_text())[str(step)]["layers"]
    states = _hidden_states(shared(f"histories/wiki-neox/step{step}"), shared("data/enwik5").read_bytes().decode())
    tokens = len(states[0])
    stream = Stream([x.shape[1] for x in states], [tokens], 8.0, following=[1, 2, 3, 4, 5, 6, None])
    for layer, rows in enumerate(states):
        stream.put(layer, rows)
    stream.step(torch.arange(tokens) % 128 == 0, torch.zeros(tokens, dtype=torch.int64))
    for layer, (moments, rows, truth) in enumerate(zip(stream.close(), states, expected, strict=True)):
        cloud = Cloud(4096, rows.shape[1], rows.dtype)
        cloud.put(rows[:4096])
        row = describe_layer(moments, cloud, RECIPE)
        assert row["n_tokens"] == tokens
        assert row["anisotropy"] == pytest.approx(truth["anisotropy"], abs=1e-6)
        assert row["id_authors"] == pytest.approx(truth["id_authors"], rel=1e-6)
        if layer < 5:  # the state after the fifth block leads to the sixth, which is not among these
            assert row["linearity"] == pytest.approx(truth["linearity_to_next"], abs=1e-6)


def _hidden_states(folder: Path, text: str) -> list[torch.Tensor]:
    """All states of the first 128 snippets of 512 characters, each forwarded alone."""
    from transformers import AutoTokenizer, GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    snippets = [text[512 * i : 512 * (i + 1)] for i in range(128)]
    with torch.inference_mode():
        states = [
            model(
                torch.tensor([tokenizer(s, add_special_tokens=False).input_ids[:128]]), output_hidden_states=True
            ).hidden_states
            for s in snippets
        ]
    return [torch.cat([state[layer][0] for state in states]) for layer in range(len(states[0]))]
