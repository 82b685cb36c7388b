"""All spectrum metrics of a tall matrix against one float32 SVD of it: time and numerical error."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from jobs.bench.comparison import Comparison, Subject, at_least, compared, unit_on
from jobs.bench.data import curved
from jobs.bench.scale import Scale
from jobs.bench.timing import interleaved, timed
from pipeline.geometry import MomentStream, PointCloud
from pipeline.geometry.layer import Layer
from pipeline.geometry.metrics import metric_groups
from pipeline.recipe import built_in_recipe

SVD, VALUES = "float32 SVD", "float32 SVD, singular values only"
ROUNDING = 2.0**-53
"""Resolution of the float64 reference; smaller errors are reported as this value."""


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    n, dim, rounds, _ = scale.spectrum
    points = curved(n, dim, device)
    contenders = {
        "ours": timed(lambda: spectrum(points), device),
        SVD: timed(lambda: torch.linalg.svd(points - points.mean(0), full_matrices=False), device),
        VALUES: timed(lambda: singular_values(points), device),
    }
    took = interleaved(contenders, rounds)
    subject = Subject("spectrum", "all spectrum metrics", n, dim)
    yield compared(subject, took["ours"], SVD, took[SVD], at_least(5.0).only_if(scale.full), unit_on(device))
    yield compared(subject, took["ours"], VALUES, took[VALUES], at_least(), unit_on(device))
    truth = metrics_of_singular_values(singular_values(points.double()))
    mine, theirs = spectrum(points), metrics_of_singular_values(singular_values(points).double())
    ours, svd = ([max(_error(found, truth), ROUNDING)] for found in (mine, theirs))
    note = f"the worst of {', '.join(truth)} against float64"
    yield Comparison(subject, SVD, "relative error", ours, svd, at_least(100.0).only_if(scale.full), note)


def spectrum(points: Tensor) -> dict[str, object]:
    """Compute the columns of all metric groups whose time is part of `spectrum_s`.

    The points are treated as a last layer: there is no next one, so the linearity columns are null.
    """
    device = points.device
    stream = MomentStream([points.shape[1]], [len(points)], sink_multiple=8.0, device=device)
    stream.add_states(0, points)
    stream.end_batch(torch.zeros(len(points), dtype=torch.bool), torch.zeros(len(points), dtype=torch.int64))
    (moments,) = stream.finish()
    layer = Layer(moments, PointCloud(0, points.shape[1], points.dtype, device), built_in_recipe("standard@1"))
    with torch.inference_mode():
        found = [group.measure(layer) for group in metric_groups() if group.TIMING_COLUMN == "spectrum_s"]
    return {column: value for columns in found for column, value in columns.items()}


def singular_values(points: Tensor) -> Tensor:
    """Return the singular values of the centered matrix, in its dtype."""
    return torch.linalg.svdvals(points - points.mean(0))


def metrics_of_singular_values(singular: Tensor) -> dict[str, float]:
    """Compute the same metrics in float64 from the singular values of the centered matrix."""
    share = singular.square() / singular.square().sum()
    return {
        "anisotropy": float(share[0]),
        "participation_ratio": float(1 / share.square().sum()),
        "effective_rank_lambda": float(torch.special.entr(share).sum().exp()),
    }


def _error(found: Mapping[str, object], truth: dict[str, float]) -> float:
    return max(abs(float(str(found[name])) / value - 1) for name, value in truth.items())
