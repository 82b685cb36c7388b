"""Does an encoder stay isotropic throughout its training, for every seed?

Source: Sellam et al., "The MultiBERTs" (arXiv 2106.16163); five seeds, one repo per checkpoint, only pickled weights.
Command: python -m jobs.multiberts --lake LAKE
Bytes: 1.1e8 parameters, 4 bytes each: 5 x 29 x 4 x 1.1e8 = 6.4e10; at most 0.5e9 per checkpoint.
GPU-hours: forward passes of 5 x 1024 x 256 = 1310720 tokens, in float32 at 4e13 FLOP/s:
5 x 29 x 2 x 1.1e8 x 1.31e6 / 4e13 / 3600 = 0.29. Metrics are not included.
Expect: no dome at any step (Razzhigaev et al., EACL 2024: encoders are flat; Skean et al., arXiv 2502.02013: BERT is
flat too). The spread over the five seeds is the error bar of a difference from a decoder.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Members, Sweep, built_in_recipe

SWEEP = Sweep(
    name="multiberts",
    checkpoints=(Members(family="multiberts"),),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("standard@1"),
)

if __name__ == "__main__":
    run_job_module()
