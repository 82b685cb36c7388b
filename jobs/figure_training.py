"""Do all decoders converge to one anisotropy profile, and does intrinsic dimension first grow, then shrink?

Source: Razzhigaev et al., "The Shape of Learning" (EACL 2024), the figures over training.
Put each checkpoint in models/REPO/REVISION, for one:
hf download EleutherAI/pythia-70m --revision step1000 --local-dir models/EleutherAI/pythia-70m/step1000
Command: python -m jobs.figure_training --lake LAKE [--models '*/pythia-70m'] [--steps log2]
Cost: 5 x 1024 contexts x 256 tokens = 1.3M tokens a checkpoint; pythia-410m: 2 x 4.1e8 x 1.3e6 = 1.1e15 FLOP, 4 hours
at 80 GFLOP/s on a CPU, 5 s at 200 TFLOP/s on a GPU, times 154 checkpoints; download 0.8 GB each.
Expect: anisotropy of the middle layers grows over training; the dimension of Pythia's layers turns near step 1,000
(Lee et al. 2024, arXiv 2410.01444, last token); BLOOM expands, then compresses.
"""

from pipeline.cli import job
from pipeline.spec import Corpus, Local, Sweep, built_in

HISTORIES = (
    "EleutherAI/pythia-70m",
    "EleutherAI/pythia-160m",
    "EleutherAI/pythia-410m",
    "EleutherAI/pythia-2.8b",
    "bigscience/bloom-560m-intermediate",
    "bigscience/bloom-1b1-intermediate",
    "bigscience/bloom-3b-intermediate",
    "bigscience/bloom-7b1-intermediate",
    "TinyLlama/tinyLlama-intermediate-checkpoints",
)

SWEEP = Sweep(
    name="figure-training",
    checkpoints=tuple(Local(local=f"models/{repo}", model=repo) for repo in HISTORIES),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in("standard@1"),
)

if __name__ == "__main__":
    job()
