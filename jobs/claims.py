"""Which published claims about the shape of representations hold on public histories, after correction for all tests?

Source: the registry of `shapelake claims`, nine papers (pipeline/analysis/claims.md). HISTORIES_OF_CLAIMS of this
module names the histories that decide each claim.
Command: python -m jobs.claims --lake LAKE [--models '*-70m'] [--steps log2], then shapelake claims --lake LAKE
Bytes: the smaller Pythia models 154 x 2 x 6.8e8 = 2.1e11, pythia-1b 154 x 2 x 1.01e9 = 3.1e11, the unstable seed
154 x 2 x 4.05e8 = 1.25e11, MultiBERTs 5 x 29 x 4 x 1.1e8 = 6.4e10; 2.1e11 + 3.1e11 + 1.25e11 + 6.4e10 = 7.1e11 in all,
at most 2e9 per checkpoint. Similarity records have 54528 bytes a layer, for the blocks and at most 2 other layers:
decoders 154 x 2 x 108 x 54528 = 1.8e9, MultiBERTs 5 x 29 x 2 x 14 x 54528 = 2.2e8.
GPU-hours: forward passes of 5 x 1024 x 256 = 1310720 tokens of text and as many random ones, in float32 at 4e13 FLOP/s:
2 x 154 x 2 x 6.8e8 x 1.31e6 / 4e13 / 3600 = 3.8, pythia-1b 2 x 154 x 2 x 1.01e9 x 1.31e6 / 4e13 / 3600 = 5.7, the seed
2 x 154 x 2 x 4.05e8 x 1.31e6 / 4e13 / 3600 = 2.3, MultiBERTs 2 x 5 x 29 x 2 x 1.1e8 x 1.31e6 / 4e13 / 3600 = 0.58;
3.8 + 5.7 + 2.3 + 0.58 = 12.4 in all. Metrics are not included.
Expect: unknown; no study has tested all claims on these histories, and each paper reports its own claim on other models
or texts. The correction covers some 165 tests, so with 5 groups of contexts an effect must be about 12 standard errors
(Student's t of 4 degrees of freedom). For two claims, p has a lower bound: `dimension-before-explosions` 1e-4,
and only if the loss of the unstable seed spikes; `earlier-onset-lower-loss` 2 / 5040 with 7 models. The latter claim is
decided only if at most 125 tests are left in Holm's order, that is, after 40 tests with smaller p.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Hub, Members, Similarity, Sweep, built_in_recipe

SMALL = tuple(f"EleutherAI/pythia-{size}" for size in ("14m", "31m", "70m", "160m", "410m"))
LARGE, UNSTABLE, ENCODERS = "EleutherAI/pythia-1b", "EleutherAI/pythia-410m-seed3", "multiberts"
DECODERS = (*SMALL, LARGE, UNSTABLE)
HISTORIES_OF_CLAIMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("dome-in-decoders", "anisotropy-rises", "expand-then-compress", "dome-on-random-tokens"),
            *("phases-on-random-tokens", "linear-neighbours", "less-linear-without-residual"),
            *("few-massive-activations", "massive-at-first-token", "valley-at-large-sinks", "warm-up-collapse"),
            *("rank-expands-then-compresses", "alpha-mirrors-the-rank", "dimension-peak-over-depth"),
            *("peak-lower-on-random-text", "one-profile", "earlier-onset-lower-loss"),
            "peak-layers-predict-each-other",
        ),
        DECODERS,
    ),
    "no-dome-in-encoders": (ENCODERS,),
    "dimension-before-explosions": (UNSTABLE,),
    **dict.fromkeys(("overlap-profile", "lower-layers-settle-first"), (*DECODERS, ENCODERS)),
    "isotropic-final-state": (LARGE,),
}
"""Repos and families whose histories can decide a claim, by the name of the claim."""

SWEEP = Sweep(
    name="claims",
    checkpoints=(*(Hub(hub=repo) for repo in DECODERS), Members(family=ENCODERS)),
    corpora=(Corpus(kind="enwik8"), Corpus(kind="random-uniform")),
    recipe=built_in_recipe("standard@1"),
    similarity=Similarity(),
)

if __name__ == "__main__":
    run_job_module()
