"""Are the middle layers of decoders extremely anisotropic, and those of encoders not? (The paper's first figure.)

Source: Razzhigaev et al., "The Shape of Learning" (EACL 2024), figure 1, and the authors' notebook.
Put each model in models/REPO, for one: hf download facebook/opt-125m --local-dir models/facebook/opt-125m
Command: python -m jobs.figure_anisotropy --lake LAKE [--models 'facebook/*']
Cost: 128 snippets of 512 characters, about 14,000 tokens a model: 2 x 1.3e9 parameters x 14e3 = 3.6e13 FLOP for the
largest here, 8 minutes at 80 GFLOP/s on a CPU, a second on a GPU; download 2 to 5 bytes per parameter.
Expect (authors' notebook, layers 1..11 of opt-125m): anisotropy .979 .987 .995 .995 .995 .993 .991 .989 .984 .974 .960;
id_authors 15 16 13 13 13 12 14 13 13 11 11, with 10 % from one draw of snippets to the next. Encoders: no dome.
"""

from pipeline.cli import job
from pipeline.spec import Corpus, Local, Sweep, built_in

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
    checkpoints=tuple(Local(local=f"models/{repo}", model=repo) for repo in (*DECODERS, *ENCODERS)),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in("authors@1"),
)

if __name__ == "__main__":
    job()
