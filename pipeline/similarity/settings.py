"""Field `similarity:` of a sweep: the size of the similarity records."""

from typing import Annotated

from pydantic import Field, field_validator

from pipeline.strict_model import StrictModel

FACTOR_BYTES, INDEX_BYTES = 2, 2
MAX_TOKENS, MATRIX_BYTES = 4096, 64
"""Largest allowed `tokens`, and memory in bytes per pair of tokens while a layer is recorded: 1 GB at 4096 tokens."""
PER_TOKEN_BYTES = 10
"""Stored bytes per token beside its neighbour list and its factors: token id, group, sink mask and diagonal."""


class Similarity(StrictModel):
    """Size of the similarity record of each layer.

    Records change no number in the rows of a cell, so this size is part neither of the recipe nor of the cell id.
    """

    tokens: Annotated[int, Field(ge=16)] = 512
    """Number of compared tokens, divided evenly over the groups of contexts; a group with fewer tokens contributes
    fewer. On one corpus, all checkpoints with one tokenizer have the same compared tokens."""
    rank: Annotated[int, Field(ge=1)] = 32
    """Number of singular vectors of the centred states that are stored."""
    neighbours: Annotated[int, Field(ge=1)] = 16
    """Number of nearest neighbours per token that are stored."""
    ranks: bool = False
    """If true, the rank of every token among the neighbours of every other is stored too, which takes 2 bytes per pair
    of tokens. The information imbalance needs these ranks."""

    @field_validator("tokens")
    @classmethod
    def _fits_in_memory(cls, value: int) -> int:
        if value > MAX_TOKENS:
            gigabytes = value**2 * MATRIX_BYTES / 1e9
            raise ValueError(f"{value} tokens need {gigabytes:.0f} GB of memory; write {MAX_TOKENS} or fewer")
        return value

    @field_validator("rank", "neighbours")
    @classmethod
    def _fits_the_tokens(cls, value: int, info: object) -> int:
        tokens = getattr(info, "data", {}).get("tokens")
        if tokens is not None and value >= tokens:
            raise ValueError(f"{value} must be smaller than tokens ({tokens})")
        return value

    @property
    def name(self) -> str:
        """Name of this size as a part of the file names of records, such as `t512-r32-k16` or `t512-r32-k16-ranks`."""
        return f"t{self.tokens}-r{self.rank}-k{self.neighbours}" + ("-ranks" if self.ranks else "")

    @property
    def bytes_per_layer(self) -> int:
        """Bytes of the record of one layer, before compression."""
        per_token = FACTOR_BYTES * self.rank + INDEX_BYTES * self.neighbours + PER_TOKEN_BYTES
        return self.tokens * (per_token + INDEX_BYTES * self.tokens * self.ranks) + 8 * self.rank
