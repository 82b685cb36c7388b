"""k-NN against the GEMM floor and every peer: candidates, and the exact lists that are re-ranked and certified."""

from collections.abc import Iterator

from torch import Tensor

from jobs.bench import peers
from jobs.bench.comparison import Comparison, Subject, at_least, at_most, compared, unit_on, within
from jobs.bench.data import curved, gemm_floor
from jobs.bench.peers import AUTHORS, DADAPY, SKLEARN, TWONN
from jobs.bench.scale import Knn, Scale
from jobs.bench.timing import Contender, interleaved, timed
from pipeline.geometry.candidates import default_engine
from pipeline.geometry.neighbors import build_exact_graph

K = 64
WIDTH = K + 9
"""Candidates per query in the certified search, including the query itself."""
FLOOR = "GEMM floor"
GAINS = {AUTHORS: 340.0, TWONN: 2.0, SKLEARN: None, DADAPY: None}
"""Target gain of the certified lists over each peer: time of the peer / our time. None: there is no target."""


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    for size in scale.knn:
        yield from _compare_size(size, scale, device)


def _compare_size(size: Knn, scale: Scale, device: str) -> Iterator[Comparison]:
    points = curved(size.n, size.dim, device)
    took = interleaved({**_own(points), **_peers(points, size, scale.authors_points)}, size.rounds)
    unit, once = unit_on(device), "one round" if size.rounds == 1 else ""
    promised = (size.n, size.dim) == (scale.layer.n, scale.layer.dim)
    candidates = Subject("knn", f"k-NN candidates, k={K}", size.n, size.dim)
    certified = Subject("knn", f"k-NN re-ranked and certified, k={K}", size.n, size.dim)
    yield compared(candidates, took["candidates"], FLOOR, took[FLOOR], at_most(1.2).only_if(promised), unit, once)
    yield compared(certified, took["certified"], FLOOR, took[FLOOR], at_most(1.5).only_if(promised), unit, once)
    for peer, gain in GAINS.items():
        if peer in took:
            wanted = at_least(gain).only_if(promised)
            note = _part_note(peer, size, scale.authors_points) or once
            yield compared(certified, took["certified"], peer, took[peer], wanted, unit, note)
    if scale.knn_limit_s and promised:
        yield within(certified, took["certified"], scale.knn_limit_s)


def _own(points: Tensor) -> dict[str, Contender]:
    device = points.device.type
    engine, centred = default_engine(points.device, len(points)), points - points.median(0).values
    return {
        FLOOR: gemm_floor(points),
        "candidates": timed(lambda: engine(centred, centred, WIDTH), device),
        "certified": timed(lambda: build_exact_graph(points, K), device),
    }


def _peers(points: Tensor, size: Knn, authors_points: int) -> dict[str, Contender]:
    """Return the installed peers; on a GPU only the authors' loop, the only peer that runs there."""
    contenders: dict[str, Contender] = {AUTHORS: lambda: peers.authors_loop(points, authors_points)}
    if points.device.type == "cpu":
        contenders[SKLEARN] = lambda: peers.sklearn_neighbors(points, K, size.queries or size.n)
        if not size.queries:
            contenders[TWONN] = timed(lambda: peers.twonn(points))
            contenders[DADAPY] = lambda: peers.dadapy_neighbors(points, K)
    return {name: contender for name, contender in contenders.items() if name not in peers.absent()}


def _part_note(peer: str, size: Knn, authors_points: int) -> str:
    """Return the note for a peer that was timed on a part of the points and scaled up; empty for all others."""
    parts = {AUTHORS: authors_points, SKLEARN: size.queries}
    return f"from {parts[peer]:,} of its points" if parts.get(peer) else ""
