"""Intrinsic dimension as computed by the published code of Razzhigaev et al. 2024."""

import statistics

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.chunking import CHUNK_BYTES, chunk_slices
from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.neighbors import NeighborGraph

COLUMNS = ("id_authors", "id_authors_se", "id_authors_groups")
TIMING_COLUMN = "knn_s"


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group.

    - `id_authors`: value of the first draw of points.
    - `id_authors_se`: standard deviation over all draws with a value; None with fewer than two.
    - `id_authors_groups`: list of the values of all draws; None if no draw has a value.
    """
    draws = [id_authors(layer, graph) for graph in layer.authors_graphs]
    found = [value for value in draws if value is not None]
    spread = statistics.stdev(found) if len(found) > 1 else None
    return {"id_authors": draws[0], "id_authors_se": spread, "id_authors_groups": draws if found else None}


def id_authors(layer: Layer, graph: NeighborGraph) -> float | None:
    """Return TwoNN on one draw of `authors_points` points, with the flaws of the published code.

    The slope is fitted to only the lowest fifth of the ratios mu = r2 / r1 of the distances to the two nearest
    neighbours. Points that have a duplicate, or r1 = r2, are left out of the fit, but count in the denominator of the
    empirical distribution function. The result is None if fewer than five points are left (flag
    `too_few_without_copies`). Distances are float64, between centered rows in units of their mean length; the
    distribution function is float32, as published. The standard error is that of one draw: the standard deviation over
    disjoint draws, which stand for the authors' repeated runs.

    Args:
        graph: one of `layer.authors_graphs`.

    Source: Razzhigaev et al. 2024 (arXiv 2311.05928), code llm_microscope 0.0.7.
    Bias: upward with duplicates (for a true value of 10, 5 % duplicates give 13.5 and 20 % give 25); sd 3.6 % at
        N = 4096. With three draws, the standard error itself is uncertain by 50 %.
    """
    n = int(graph.copies.sum())
    mu = _mu(graph) if graph.distances.shape[1] >= 2 else graph.distances.new_zeros(0)
    fitted = len(mu) // 5
    if not fitted:
        layer.flags.add("too_few_without_copies")
        return None
    below = (torch.arange(n - len(mu) + 1, n + 1, device=mu.device).to(torch.float32) / n)[:fitted]
    log_mu = mu[:fitted].log()
    return float((log_mu * -torch.log(1 - below)).sum() / log_mu.square().sum())


def _mu(graph: NeighborGraph) -> Float64[Tensor, " usable"]:
    """Return the ascending r2 / r1 of the points, without points that have a duplicate or r1 = r2.

    If the nearest neighbour of a point has a duplicate, both copies are equally far away, so r1 = r2.
    """
    points, weight = graph.points.to(torch.float64), graph.copies.to(torch.float64)
    points = points - (weight @ points) / weight.sum()
    points = points / (weight @ torch.linalg.vector_norm(points, dim=1) / weight.sum())
    near = graph.indices[:, :4]
    parts = chunk_slices(len(points), 16 * near.shape[1] * points.shape[1], CHUNK_BYTES[points.device.type])
    distances = torch.cat([torch.linalg.vector_norm(points[part, None] - points[near[part]], dim=2) for part in parts])
    distances, order = distances.sort(dim=1, stable=True)
    nearest_has_copies = graph.copies[near.gather(1, order)[:, 0]] > 1
    mu = distances[:, 1] / distances[:, 0]
    usable = (graph.copies == 1) & ~nearest_has_copies & (distances[:, 0] >= 1e-8) & (mu > 1 + 1e-8)
    return mu[usable].sort().values
