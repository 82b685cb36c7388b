"""Does geometry form in the same way in five seeds in the first thousand steps, and at which step does it turn?

Source: Stanford CRFM, Mistral (github.com/stanford-crfm/mistral); GPT-2 small with a checkpoint every 10 steps up to
100, every 50 up to 2000, every 100 up to 20,000, every 1000 up to 400,000: the densest early history published.
Command: python -m jobs.stanford_gpt2 --lake LAKE [--steps log2]
Bytes: 1.24e8 parameters, 4 bytes each: 5 x 609 x 4 x 1.24e8 = 1.5e12; 0.5e9 per checkpoint.
GPU-hours: forward passes of 5 x 1024 x 256 = 1310720 tokens, in float32 at 4e13 FLOP/s:
5 x 609 x 2 x 1.24e8 x 1.31e6 / 4e13 / 3600 = 6.9. Metrics are not included.
Expect: no measurement is published. As in other decoders (Razzhigaev et al., EACL 2024), dimension should grow, then
shrink, and anisotropy of the middle layers should grow. The turn is near step 4000 if Pythia's turn near step 1000
depends on tokens, since a step here has a quarter of Pythia's tokens.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Members, Sweep, built_in_recipe

SWEEP = Sweep(
    name="stanford-gpt2",
    checkpoints=(Members(family="stanford-gpt2", models="*-gpt2-small-*"),),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("standard@1"),
)

if __name__ == "__main__":
    run_job_module()
