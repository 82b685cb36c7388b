"""Does intrinsic dimension rise before the loss explodes, in the two unstable of nine runs that differ in their seed?

Source: van der Wal et al., "PolyPythias" (arXiv 2503.09543): pythia-410m trained nine more times with other seeds.
Command: python -m jobs.polypythias --lake LAKE [--steps log2]
Bytes: 4.05e8 parameters, 2 bytes each: 9 x 154 x 2 x 4.05e8 = 1.1e12; 0.8e9 per checkpoint.
GPU-hours: forward passes of 5 x 1024 x 256 = 1310720 tokens, in float32 at 4e13 FLOP/s:
9 x 154 x 2 x 4.05e8 x 1.31e6 / 4e13 / 3600 = 10.2. Metrics are not included.
Expect: seeds 3 and 4 diverge from the others (arXiv 2503.09543); those seven show the run-to-run spread. The authors
of "The Shape of Learning" saw dimension grow before loss explosions; a checkpoint every 1000 steps shows before, during
and after, but not the lead in steps. Three checkpoints have no weights (github.com/EleutherAI/pythia/issues/202).
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Members, Sweep, built_in_recipe

SWEEP = Sweep(
    name="polypythias",
    checkpoints=(Members(family="pythia-seeds", models="*-410m-seed*"),),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("standard@1"),
)

if __name__ == "__main__":
    run_job_module()
