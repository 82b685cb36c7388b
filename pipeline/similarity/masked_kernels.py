"""Debiased linear CKA of many records of one layer, each pair on the tokens that both keep, in a few matrix products.

A checkpoint's kernel with zeros at the tokens that it does not keep gives the products over the tokens of both at once.
Row sums and norms depend on the other checkpoint too, but only through its mask: they are computed per distinct mask.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Float32, Float64

from pipeline.similarity.blas_threads import on_one_blas_thread
from pipeline.similarity.kernels import MIN_TOKENS, ROUNDING
from pipeline.similarity.record import LayerRecord

CHUNK_TOKENS = 64
"""Rows of every kernel that are in memory at once: 20 MB for 154 records of 512 tokens."""
WORKERS = 2
"""Layers that are compared at once; each takes up to 0.3 GB for 154 records of 512 tokens, if all masks differ."""
Pairs = Float64[np.ndarray, "records records"]


Layer = tuple[Sequence[LayerRecord], Bool[np.ndarray, "records tokens"]]
"""Records of one layer, and the mask of the tokens that each record keeps."""


@on_one_blas_thread
def compare_masked_layers(layers: Sequence[Layer]) -> list[Pairs]:
    """Return the result of `compare_masked_kernels` for each layer; WORKERS layers are computed at once."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(lambda layer: compare_masked_kernels(*layer), layers))


def compare_masked_kernels(records: Sequence[LayerRecord], masks: Bool[np.ndarray, "records tokens"]) -> Pairs:
    """Return the debiased linear CKA of all pairs of records, each on the tokens that the masks of both keep.

    A pair with fewer than MIN_TOKENS such tokens, or with a U-centred kernel of zero (ROUNDING), is NaN. Kernels are
    multiplied in float32, with an error of about 1e-6 in CKA; row sums are float64. Memory is records * tokens *
    distinct masks * 8 bytes.

    Source: as `compare_kernels`.
    """
    factors = np.stack([record.factors for record in records]) * masks[:, :, None]
    factors /= np.sqrt(np.maximum((factors**2).sum((1, 2)), 1e-300))[:, None, None]
    distinct, of_record = np.unique(masks, axis=0, return_inverse=True)
    sums = _row_sums(factors, distinct.T.astype(float))
    products, squares = _multiply(factors.astype(np.float32), distinct.T.astype(np.float32))
    totals = sums.sum(1)[:, of_record]
    dots = np.stack([np.einsum("tj,jt->j", sums[i][:, of_record], sums[:, :, of_record[i]]) for i in range(len(sums))])
    n = masks.astype(float) @ masks.T.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        inner = products + totals * totals.T / ((n - 1) * (n - 2)) - 2 / (n - 2) * dots
        norms = squares[:, of_record] + totals**2 / ((n - 1) * (n - 2))
        norms -= 2 / (n - 2) * (sums**2).sum(1)[:, of_record]
        smallest = ROUNDING * np.finfo(np.float32).eps * squares[:, of_record]
        norms = np.where(norms > smallest, norms, np.nan)
        found = inner / np.sqrt(norms * norms.T)
    return np.where(n >= MIN_TOKENS, found, np.nan)


def _row_sums(
    factors: Float64[np.ndarray, "records tokens rank"], masks: Float64[np.ndarray, "tokens masks"]
) -> Float64[np.ndarray, "records tokens masks"]:
    """Return the sum of each token's off-diagonal kernel entries over the tokens of each mask; 0 outside the mask."""
    sums = factors @ (factors.transpose(0, 2, 1) @ masks)
    sums -= (factors**2).sum(2)[:, :, None] * masks
    return sums * masks


def _multiply(
    factors: Float32[np.ndarray, "records tokens rank"], masks: Float32[np.ndarray, "tokens masks"]
) -> tuple[Pairs, Float64[np.ndarray, "records masks"]]:
    """Return the inner products of off-diagonal kernels, and the squared norm of each on the tokens of each mask."""
    n_records, n_tokens = factors.shape[:2]
    products = np.zeros((n_records, n_records))
    squares = np.zeros((n_records, masks.shape[1]))
    for start in range(0, n_tokens, CHUNK_TOKENS):
        rows = np.arange(start, min(start + CHUNK_TOKENS, n_tokens))
        block = factors[:, rows] @ factors.transpose(0, 2, 1)
        block[:, np.arange(len(rows)), rows] = 0
        flat = block.reshape(n_records, -1)
        products += flat @ flat.T
        squared = (np.square(flat).reshape(-1, n_tokens) @ masks).reshape(n_records, len(rows), -1)
        squares += np.einsum("rtm,tm->rm", squared, masks[rows])
    return products, squares
