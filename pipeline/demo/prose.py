"""Text of the demos: CPython's own documentation, one part for training and one for measuring."""

import pydoc_data.topics
from pathlib import Path

HELD_OUT_SHARE = 0.35
"""Share of the text, at its end, that is held out from training and used for measuring."""


def split_prose() -> tuple[str, str]:
    """Return the text for training and the text for measuring."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    cut = int(len(text) * (1 - HELD_OUT_SHARE))
    return text[:cut], text[cut:]


def write_held_out_prose(folder: Path) -> Path:
    """Write the text for measuring to `prose.txt` in `folder`, which is created if absent; return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "prose.txt"
    path.write_text(split_prose()[1])
    return path
