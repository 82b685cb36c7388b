"""Conversion of the arrays that users pass (torch, numpy of any layout, pandas, polars, lists) to tensors.

Values are converted exactly, or a UsageError is raised. The only exceptions are numpy's longdouble and arrays of Python
objects: they are converted to float64, which may round them.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UsageError

MatrixLike = Any
"""Tensor, numpy array, DataFrame of pandas or polars, or nested lists of numbers."""
MAX_MAGNITUDE, MIN_MAGNITUDE = 1e75, 1e-75
"""Limits of the largest absolute coordinate of all points. Outside them, fourth powers would overflow or underflow in
float64, and the points are refused with a UsageError."""
MAX_EXACT_INTEGER = 2**53
"""Largest integer up to which float64 represents all integers exactly."""


def to_points(points: MatrixLike) -> Tensor:
    """Return the points as a floating-point tensor of the same values, `[tokens, dim]` or `[contexts, tokens, dim]`.

    Raises:
        UsageError: the array has another shape or is empty; values are not real numbers, or are too large or too small.
    """
    rows = _integers_as_float64(to_tensor("points", points))
    rows = rows if rows.device.type in ("cpu", "cuda") else rows.cpu()
    if rows.ndim not in (2, 3) or not rows.numel() or not rows.is_floating_point():
        found = f"an array of shape {tuple(rows.shape)} and type {str(rows.dtype).removeprefix('torch.')}"
        do = "Give a non-empty matrix of numbers, [tokens, dim] or [contexts, tokens, dim]"
        raise UsageError("points", found, do)
    finite = rows[rows.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    if largest > MAX_MAGNITUDE or 0 < largest < MIN_MAGNITUDE:
        limit = f"above {MAX_MAGNITUDE:.0e}" if largest > 1 else f"below {MIN_MAGNITUDE:.0e}"
        do = "Divide all points by one number: dimensions, ranks, cosines and shares stay the same"
        raise UsageError("points", f"values up to {largest:.3g}, {limit}", do)
    return rows


def _integers_as_float64(rows: Tensor) -> Tensor:
    """Convert integers exactly to float64 (UsageError beyond MAX_EXACT_INTEGER); return other tensors unchanged."""
    if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
        return rows
    if rows.numel() and max(abs(int(rows.min())), abs(int(rows.max()))) > MAX_EXACT_INTEGER:
        raise UsageError("points", "integers beyond 2**53, which float64 would round", "Convert them to floats")
    return rows.to(torch.float64)


def to_labels(name: str, values: Any, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """Return one integer per point, int64 `[points]`; None if `values` is None.

    Args:
        shape: shape of the points without dim, (tokens,) or (contexts, tokens). With the second, `values` may have one
            value per context, which all its tokens get.

    Raises:
        UsageError: the values are not integers, or their number differs from the number of points.
    """
    if values is None:
        return None
    labels = to_integers(name, values).to(device)
    if len(shape) == 2 and labels.shape == shape[:1]:
        labels = labels[:, None].expand(shape)
    n_points = int(np.prod(shape))
    if labels.shape != shape and labels.shape != (n_points,):
        found = f"shape {tuple(labels.shape)} for {n_points} points"
        raise UsageError(name, found, f"Give {n_points} integers, one per point")
    return labels.reshape(-1)


def to_integers(name: str, values: Any) -> Tensor:
    """Convert the values exactly to int64; raise UsageError if a value is not a 64-bit integer."""
    given = to_tensor(name, values)
    if given.is_complex() or (given.is_floating_point() and not bool((given == given.round()).all())):
        wrong = given[given != given.round()][0].item() if given.is_floating_point() else given.flatten()[0].item()
        raise UsageError(name, f"{wrong} is not an integer", "Number them: np.unique(x, return_inverse=True)[1]")
    integers = given.to(torch.int64)
    if not bool((integers.to(given.dtype) == given).all()):
        raise UsageError(name, "values beyond 64-bit integers", "Number them from 0")
    return integers


def to_tensor(name: str, value: Any) -> Tensor:
    """Return the values as a tensor, which shares their memory if possible; UsageError if they are not numbers."""
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
        if isinstance(value, np.ma.MaskedArray) and value.mask.any():
            raise ValueError("some values are masked")
        return torch.from_numpy(_native(array))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        found = f"cannot be read as numbers ({' '.join(str(error).split())[:120]})"
        raise UsageError(
            name, found, "Give an array, a tensor, a DataFrame or lists of numbers of equal length"
        ) from error


def _native(array: np.ndarray) -> np.ndarray:
    """Return the array in a form that torch accepts: native byte order, contiguous and writable."""
    if array.dtype == object:  # a DataFrame whose columns have several types
        array = _numbers_of(array)
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return array if array.flags.writeable else array.copy()


def _numbers_of(objects: np.ndarray) -> np.ndarray:
    """Convert Python numbers to int64 if all are integers, else to float64; ValueError if one is not kept exactly."""
    whole = all(isinstance(value, int) for value in objects.flat)
    found = objects.astype(np.int64 if whole else np.float64)
    for value, kept in zip(objects.flat, found.flat, strict=True):
        is_nan = value != value
        if not (is_nan or value == kept.item()):
            raise ValueError(f"{value!r} is no number that {found.dtype} keeps exactly")
    return found
