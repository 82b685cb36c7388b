"""Files of a stub checkpoint as the fake Hub serves them."""

import json

from tests.support import stub_checkpoints as stub


def files(weights: str, **more: bytes) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(stub.CONFIG).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": weights.encode(),
        **more,
    }
