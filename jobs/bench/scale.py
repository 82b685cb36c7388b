"""Problem sizes of the benchmark and the targets that depend on them: full, quick, and on a GPU."""

from typing import NamedTuple


class Knn(NamedTuple):
    """Point cloud [n, dim] and the number of rounds."""

    n: int
    dim: int
    rounds: int = 5
    queries: int | None = None
    """Number of queries for which scikit-learn is timed; the time is scaled up to all points. None: all points.

    If it is set, the peers that compute all N x N distances are skipped.
    """


class Model(NamedTuple):
    """Decoder with random weights and the tokens that it reads."""

    layers: int
    dim: int
    vocabulary: int
    contexts: int
    tokens: int
    """Tokens per context."""
    kept: int
    """Tokens of each context in the k-NN cloud."""
    moments: int
    """Tokens of each context in the moments."""
    rounds: int = 5


class Scale(NamedTuple):
    knn: tuple[Knn, ...]
    authors_points: int
    """Number of points after which `intrinsic_dimension` of the paper's authors, a loop over points, is stopped; its
    time is then scaled up to all points."""
    layer: Knn
    """Size for which `describe()` is timed; it is the only size of `knn` that has targets."""
    widths: tuple[int, ...]
    """Dimensions at which all metrics are compared with the minimal metric set."""
    spectrum: Knn
    model: Model
    bare_contexts: int
    """Contexts of the timed bare pass, whose time is then scaled up to all contexts."""
    plain_contexts: int
    """Contexts that the timed plain script forwards; the time is then scaled up to all contexts."""
    sampled_contexts: int
    """Contexts per group when the anisotropy of few tokens is compared with that of all tokens."""
    checkpoints: int
    tasks: int
    lakes: tuple[int, ...]
    """Numbers of cells of the lakes whose costs are compared."""
    snapshot_cells: int
    """Number of cells in the lake snapshot that is read while requests to the object store are counted."""
    new_cells: int
    """Number of cells that are added after a snapshot."""
    local_checkpoints: int
    """Number of local checkpoints in the sweep whose plan is timed."""
    full: bool = True
    """True if `spectrum`, `model` and the fields after it have the sizes for which targets are set."""
    on_top: float = 1.35
    """Target: measuring a checkpoint takes at most this many times as long as a bare forward pass."""
    utilisation: float | None = None
    """Target: smallest rate of the bare pass, as a share of the measured rate of matrix products; None: no target."""
    knn_limit_s: float | None = None
    """Target: largest time of the k-NN of one layer, in wall seconds; None: no target."""


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
    lakes=(10_000, 30_000, 100_000),
    snapshot_cells=1_000_000,
    new_cells=1_000,
    local_checkpoints=20_000,
)

QUICK = FULL._replace(
    knn=(Knn(2_000, 64), Knn(2_000, 768), Knn(10_000, 768)),
    widths=(64,),
    sampled_contexts=32,
    spectrum=Knn(20_000, 768),
    model=GPT2_SMALL._replace(layers=2, contexts=64, rounds=3),
    checkpoints=4,
    tasks=1_000,
    lakes=(200, 600),
    snapshot_cells=2_000,
    new_cells=50,
    local_checkpoints=100,
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
    utilisation=0.45,
    knn_limit_s=0.25,
)

ON_GPU_QUICK = QUICK._replace(
    knn=ON_GPU.knn[:2],
    layer=ON_GPU.layer,
    widths=(),
    model=ON_GPU.model._replace(layers=4, contexts=512),
)


def scale(device: str, quick: bool) -> Scale:
    """Return the sizes for a device; sweeps and lakes run on the CPU and have the same sizes everywhere."""
    if device == "cuda":
        return ON_GPU_QUICK if quick else ON_GPU
    return QUICK if quick else FULL
