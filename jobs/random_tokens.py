"""Do the findings hold on random tokens, so that they describe the model rather than the language?

Source: Razzhigaev et al., "The Shape of Learning" (EACL 2024), the repetition on random tokens.
The histories are those of jobs.figure_training. There are two null corpora: plain tokens drawn uniformly
(random-uniform), and the tokens of enwik8 in random order (random-unigram), which reads the text from data/enwik8.
Command: python -m jobs.random_tokens --lake LAKE [--models '*/pythia-70m'] [--steps log2]
Bytes: those of jobs.figure_training, which reads the same checkpoints: 1.05e12 + 1.9e11 + 6.4e11 = 1.9e12.
GPU-hours: two corpora instead of the one of jobs.figure_training: 2 x 6.8 = 13.6. Metrics are not included.
Expect: the anisotropy dome and the rise and fall of dimension on both corpora, if they are properties of the model. The
peak of dimension over depth is much lower on shuffled text (Cheng et al., arXiv 2405.15471, on last tokens).
"""

from jobs.figure_training import SWEEP as TRAINING
from pipeline.cli import run_job_module
from pipeline.spec import Corpus

SWEEP = TRAINING.model_copy(
    update={
        "name": "random-tokens",
        "corpora": (Corpus(kind="random-uniform"), Corpus(kind="random-unigram", path="data/enwik8")),
    }
)

if __name__ == "__main__":
    run_job_module()
