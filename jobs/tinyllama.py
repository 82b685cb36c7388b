"""Does the geometry of a small model trained on 3T tokens, far past its compute-optimal budget, change to the end?

Source: Zhang et al., "TinyLlama" (arXiv 2401.02385); branches of two repos, and seven repos of one checkpoint each.
Command: python -m jobs.tinyllama --lake LAKE [--steps log2]
Bytes: 1.1e9 parameters, 4 bytes each: 152 x 4 x 1.1e9 = 6.7e11; 4.4e9 per checkpoint.
GPU-hours: forward passes of 5 x 1024 x 256 = 1310720 tokens, in float32 at 4e13 FLOP/s:
152 x 2 x 1.1e9 x 1.31e6 / 4e13 / 3600 = 3.0. Metrics are not included.
Expect: the anisotropy dome over depth that the paper's authors show for the last checkpoint (step 1431k, 3T tokens); a
jump between 2T and 2.5T tokens, where an error in the beginning-of-text ids was fixed (the publisher's README).
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Members, Sweep, built_in_recipe

SWEEP = Sweep(
    name="tinyllama",
    checkpoints=(Members(family="tinyllama"), Members(family="tinyllama-repos")),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("standard@1"),
)

if __name__ == "__main__":
    run_job_module()
