"""Are the middle layers of decoders highly anisotropic, and those of encoders not? (The paper's first figure.)

Source: Razzhigaev et al., "The Shape of Learning" (EACL 2024), figure 1, and the authors' notebook.
Command: python -m jobs.figure_anisotropy --lake LAKE [--models 'facebook/*']
Bytes: 5.4e9 parameters in all, 2 to 4 bytes each: at most 4 x 5.4e9 = 2.2e10; at most 5.3e9 per checkpoint.
GPU-hours: 128 snippets of 512 characters are about 14,000 tokens per model; in float32 at 4e13 FLOP/s
2 x 5.4e9 x 1.4e4 / 4e13 / 3600 = 0.00105, less than the time to load the weights; on a CPU at 8e10 FLOP/s
2 x 5.4e9 x 1.4e4 / 8e10 / 3600 = 0.53 hours. Metrics are not included.
Expect (authors' notebook, layers 1..11 of opt-125m): anisotropy .979 .987 .995 .995 .995 .993 .991 .989 .984 .974 .960;
id_authors 15 16 13 13 13 12 14 13 13 11 11, varying by 10 % between draws of snippets. Encoders: no dome.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Hub, Sweep, built_in_recipe

DECODERS = (
    "openai-community/gpt2",
    "openai-community/gpt2-medium",
    "facebook/opt-125m",
    "facebook/opt-1.3b",
    "EleutherAI/pythia-70m",
    "EleutherAI/pythia-410m",
    "bigscience/bloom-560m",
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
)
ENCODERS = (
    "google-bert/bert-base-uncased",
    "google-bert/bert-large-uncased",
    "FacebookAI/roberta-base",
    "FacebookAI/roberta-large",
    "albert/albert-base-v2",
    "microsoft/deberta-v3-base",
    "google/electra-base-discriminator",
    "answerdotai/ModernBERT-base",
)

SWEEP = Sweep(
    name="figure-anisotropy",
    checkpoints=tuple(Hub(hub=repo) for repo in (*DECODERS, *ENCODERS)),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("authors@1"),
    steps="last",
)

if __name__ == "__main__":
    run_job_module()
