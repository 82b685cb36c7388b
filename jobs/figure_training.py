"""Do all decoders converge to the same anisotropy profile, and does intrinsic dimension first grow, then shrink?

Source: Razzhigaev et al., "The Shape of Learning" (EACL 2024), the figures over training.
Command: python -m jobs.figure_training --lake LAKE [--models '*/pythia-70m'] [--steps log2]
Bytes: Pythia 154 x 2 x 3.42e9 = 1.05e12, BLOOM 8 x 2 x 1.17e10 = 1.9e11, TinyLlama 145 x 4 x 1.1e9 = 6.4e11;
at most 1.4e10 per checkpoint.
GPU-hours: forward passes of 5 x 1024 x 256 = 1310720 tokens. In float32 at 4e13 FLOP/s: the smaller Pythia models
154 x 2 x 6.4e8 x 1.31e6 / 4e13 / 3600 = 1.8, the smaller BLOOM models
8 x 2 x 1.62e9 x 1.31e6 / 4e13 / 3600 = 0.24, TinyLlama 145 x 2 x 1.1e9 x 1.31e6 / 4e13 / 3600 = 2.9; in bfloat16 at
2e14 FLOP/s: the larger Pythia model 154 x 2 x 2.78e9 x 1.31e6 / 2e14 / 3600 = 1.6, the larger BLOOM models
8 x 2 x 1.01e10 x 1.31e6 / 2e14 / 3600 = 0.29. Metrics are not included.
Expect: anisotropy of the middle layers grows over training; the dimension of Pythia's layers turns near step 1000
(Lee et al., arXiv 2410.01444, on last tokens); BLOOM expands, then compresses. The paper measures pythia-2.8b, but 85
of its 154 branches hold weights from the end of training under earlier step names
(github.com/EleutherAI/pythia/issues/205), so this job measures the deduplicated run instead.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Hub, Sweep, built_in_recipe

HISTORIES = (
    "EleutherAI/pythia-70m",
    "EleutherAI/pythia-160m",
    "EleutherAI/pythia-410m",
    "EleutherAI/pythia-2.8b-deduped",
    "bigscience/bloom-560m-intermediate",
    "bigscience/bloom-1b1-intermediate",
    "bigscience/bloom-3b-intermediate",
    "bigscience/bloom-7b1-intermediate",
    "TinyLlama/tinyLlama-intermediate-checkpoints",
)

SWEEP = Sweep(
    name="figure-training",
    checkpoints=tuple(Hub(hub=repo) for repo in HISTORIES),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("standard@1"),
)

if __name__ == "__main__":
    run_job_module()
