"""Does annealing change the geometry: do three runs that branch off the same history end up alike?

Source: OLMo team, "2 OLMo 2 Furious" (arXiv 2501.00656). The histories are stage 1, its first 37,000 steps at every
1000th step, and three runs of stage 2 that start from the end of stage 1.
Command: python -m jobs.olmo --lake LAKE [--models '*-early-training'] [--steps log2]
Bytes: 1.48e9 parameters, 4 bytes each: 304 x 4 x 1.48e9 = 1.8e12; 6e9 per checkpoint.
GPU-hours: forward passes of 5 x 1024 x 256 = 1310720 tokens, in float32 at 4e13 FLOP/s:
304 x 2 x 1.48e9 x 1.31e6 / 4e13 / 3600 = 8.2. Metrics are not included.
Expect: the effective rank of the last layer falls, grows, then falls again (compression), as in Pythia (Li et al.,
arXiv 2509.23024, which measures OLMo 2). OLMo 2 normalises the outputs of its sublayers, so a dome here is not specific
to pre-norm residual streams.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Members, Sweep, built_in_recipe

SWEEP = Sweep(
    name="olmo",
    checkpoints=(Members(family="olmo2", models="*-0425-1B*"),),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("standard@1"),
)

if __name__ == "__main__":
    run_job_module()
