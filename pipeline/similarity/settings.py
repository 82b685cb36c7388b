"""Field `similarity:` of a sweep: the size of the similarity records."""

from typing import Annotated

from pydantic import Field, field_validator

from pipeline.strict_model import StrictModel

FACTOR_BYTES, INDEX_BYTES = 2, 2
MAX_TOKENS, MATRIX_BYTES = 4096, 64
"""Most compared tokens, and bytes per pair of tokens while a layer is recorded: matrices of 8 bytes; 1 GB at 4096."""
PER_TOKEN_BYTES = 10
"""Bytes per token other than lists and factors: token id, group, sink and diagonal."""


class Similarity(StrictModel):
    """Size of the similarity record of each layer. Records change no row, so no cell id or recipe has their size."""

    tokens: Annotated[int, Field(ge=16)] = 512
    """Number of compared tokens, equal for all checkpoints with one tokenizer; fewer if the contexts have fewer."""
    rank: Annotated[int, Field(ge=1)] = 32
    """Number of stored singular vectors of the centred states."""
    neighbours: Annotated[int, Field(ge=1)] = 16
    """Number of stored nearest neighbours per token."""
    ranks: bool = False
    """Also store all neighbour ranks, which information imbalance needs: 2 bytes per pair of tokens."""

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
        """Part of the file names of records of this size."""
        return f"t{self.tokens}-r{self.rank}-k{self.neighbours}" + ("-ranks" if self.ranks else "")

    @property
    def bytes_per_layer(self) -> int:
        """Bytes of the record of one layer, before compression."""
        per_token = FACTOR_BYTES * self.rank + INDEX_BYTES * self.neighbours + PER_TOKEN_BYTES
        return self.tokens * (per_token + INDEX_BYTES * self.tokens * self.ranks) + 8 * self.rank
