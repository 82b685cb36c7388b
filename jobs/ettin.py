"""Does the anisotropy dome of decoders come from their training objective, or from pre-norm residual streams?

Source: Weller et al., "Seq vs Seq" (arXiv 2507.11412): encoders and decoders with the same recipe, data and pre-norm
architecture, unlike BERT and GPT; revisions are tags.
Command: python -m jobs.ettin --lake LAKE [--steps log2]
Bytes: 5.34e8 parameters per kind, 4 bytes each: 236 x 4 x 5.34e8 = 5.0e11; at most 0.6e9 per checkpoint.
GPU-hours: forward passes of 5 x 1024 x 256 = 1310720 tokens, in float32 at 4e13 FLOP/s:
236 x 2 x 5.34e8 x 1.31e6 / 4e13 / 3600 = 2.3. Metrics are not included.
Expect: unknown; no measurement is published. If the objective makes the dome, as Razzhigaev et al. (EACL 2024) claim,
only the decoders have one; if pre-norm residual streams make it, both kinds have one.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Members, Sweep, built_in_recipe

SWEEP = Sweep(
    name="ettin",
    checkpoints=tuple(Members(family="ettin", models=f"*-{size}") for size in ("17m", "32m", "68m", "150m")),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("standard@1"),
)

if __name__ == "__main__":
    run_job_module()
