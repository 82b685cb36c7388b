"""Does dimension first expand and then compress, in models of five sizes trained on 46 languages?

Source: Razzhigaev et al., "The Shape of Learning" (EACL 2024), the figures over training; revisions are tags.
Command: python -m jobs.bloom --lake LAKE
Bytes: 1.34e10 parameters in all, 2 bytes each: 8 x 2 x 1.34e10 = 2.1e11; at most 1.4e10 per checkpoint.
GPU-hours: forward passes of 5 x 1024 x 256 = 1310720 tokens; the two smallest in float32 at 4e13 FLOP/s:
8 x 2 x 1.62e9 x 1.31e6 / 4e13 / 3600 = 0.24; the others in bfloat16 at 2e14 FLOP/s:
8 x 2 x 1.18e10 x 1.31e6 / 2e14 / 3600 = 0.34. Metrics are not included.
Expect: expansion, then compression (the paper's abstract; it gives no table of numbers). Seven or eight checkpoints per
model cannot locate the exact step of the turn. Token counts are null: no publication states the batch size of these
runs without ambiguity.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Members, Sweep, built_in_recipe

SWEEP = Sweep(
    name="bloom",
    checkpoints=(Members(family="bloom"),),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("standard@1"),
)

if __name__ == "__main__":
    run_job_module()
