"""How large the work is: in full, quickly, and on a GPU. Nothing else in the bench knows a size or a target."""

from typing import NamedTuple


class Knn(NamedTuple):
    """A cloud, and how often it is measured."""

    n: int
    dim: int
    rounds: int = 5
    queries: int | None = None
    """Of scikit-learn, before it is scaled up; the peers that have no part, only N x N distances, are then left out."""


class Model(NamedTuple):
    """A decoder with random weights and what is read with it."""

    layers: int
    dim: int
    vocabulary: int
    contexts: int
    tokens: int
    """Per context."""
    kept: int
    """Of each context, for the k-NN cloud."""
    moments: int
    """Of each context."""
    rounds: int = 5


class Scale(NamedTuple):
    knn: tuple[Knn, ...]
    authors_points: int
    """Of the authors' loop, before it is left."""
    layer: Knn
    """Of `describe()`, and the one size of `knn` for which targets are set."""
    widths: tuple[int, ...]
    """At which all metrics are weighed against the few that need least."""
    spectrum: Knn
    model: Model
    bare_contexts: int
    """Forwarded by the bare pass before it is scaled up: its batches do not know of each other."""
    plain_contexts: int
    """Forwarded by the plain script before it is scaled up."""
    sampled_contexts: int
    """Per group, to compare the anisotropy of few tokens of each with that of all."""
    checkpoints: int
    tasks: int
    cells: int
    rows: int
    full: bool = True
    """Whether `spectrum`, `model` and what follows it have the sizes for which targets are set."""
    on_top: float = 1.35
    """Wanted: a checkpoint with metrics over a bare forward pass."""
    utilised: float | None = None
    """Wanted: share of the measured rate of matrix products at which the bare forward pass runs."""
    knn_limit_s: float | None = None
    """Wanted: wall seconds of the k-NN of one layer."""


GPT2_SMALL = Model(layers=12, dim=768, vocabulary=50257, contexts=256, tokens=256, kept=39, moments=32)

FULL = Scale(
    knn=(
        *(Knn(2_000, dim, rounds=3) for dim in (64, 768, 4096)),
        *(Knn(10_000, 64, rounds=3), Knn(10_000, 768), Knn(10_000, 4096, rounds=1)),
        *(Knn(40_000, dim, rounds=1, queries=4_000) for dim in (64, 768, 4096)),
    ),
    authors_points=8,
    layer=Knn(10_000, 768),
    widths=(64, 768),
    spectrum=Knn(100_000, 768),
    model=GPT2_SMALL,
    bare_contexts=32,
    plain_contexts=8,
    sampled_contexts=128,
    checkpoints=12,
    tasks=10_000,
    cells=100_000,
    rows=1_000_000,
)

QUICK = FULL._replace(
    knn=(Knn(2_000, 64), Knn(2_000, 768), Knn(10_000, 768)),
    widths=(64,),
    sampled_contexts=32,
    spectrum=Knn(20_000, 768),
    model=GPT2_SMALL._replace(layers=2, contexts=64, rounds=3),
    checkpoints=4,
    tasks=1_000,
    cells=10_000,
    rows=100_000,
    full=False,
)

ON_GPU = FULL._replace(
    knn=(Knn(10_000, 768), Knn(10_000, 4096), Knn(100_000, 768), Knn(100_000, 4096)),
    layer=Knn(100_000, 4096),
    widths=(),
    spectrum=Knn(100_000, 4096),
    model=Model(layers=24, dim=2048, vocabulary=50257, contexts=4096, tokens=256, kept=24, moments=32, rounds=3),
    bare_contexts=4096,
    plain_contexts=32,
    on_top=1.15,
    utilised=0.45,
    knn_limit_s=0.25,
)

ON_GPU_QUICK = QUICK._replace(
    knn=ON_GPU.knn[:2],
    layer=ON_GPU.layer,
    widths=(),
    model=ON_GPU.model._replace(layers=4, contexts=512),
)


def scale(device: str, quick: bool) -> Scale:
    """The sizes of a device; sweeps and lakes run on the CPU and have the same everywhere."""
    if device == "cuda":
        return ON_GPU_QUICK if quick else ON_GPU
    return QUICK if quick else FULL
