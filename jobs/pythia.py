"""Does the dimension of each layer turn at the same training step in models of all sizes, and at which step?

Source: Biderman et al., "Pythia" (arXiv 2304.01373); 154 checkpoints per model, 12 of them in the first 1000 steps.
Command: python -m jobs.pythia --lake LAKE [--models '*-70m'] [--steps log2]
Bytes: 6.8e8 parameters in all, 2 bytes each: 154 x 2 x 6.8e8 = 2.1e11; at most 0.8e9 per checkpoint.
GPU-hours: forward passes of 5 x 1024 x 256 = 1310720 tokens, in float32 at 4e13 FLOP/s:
154 x 2 x 6.8e8 x 1.31e6 / 4e13 / 3600 = 1.9. Metrics are not included.
Expect: the dimension of nearly every layer turns near step 1000 (Lee et al., arXiv 2410.01444, on last tokens); at the
last layer a fall during learning-rate warm-up, growth by 2 to 3 times, then compression (Li et al., arXiv 2509.23024);
no peak over depth at step 0 (Cheng et al., arXiv 2405.15471); growing anisotropy of the middle layers.
Steps 0, 1 and 2 have equal weights (github.com/EleutherAI/pythia/issues/83 and 198) and are measured once.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Hub, Sweep, built_in_recipe

SWEEP = Sweep(
    name="pythia",
    checkpoints=tuple(Hub(hub=f"EleutherAI/pythia-{size}") for size in ("14m", "31m", "70m", "160m", "410m")),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("standard@1"),
)

if __name__ == "__main__":
    run_job_module()
