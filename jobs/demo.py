"""Do the anisotropies of a decoder and of an encoder differ after a minute of training?

Command: shapelake demo (trains both histories first), then: python -m jobs.demo --lake shapelake-demo/lake
Cost: 10 checkpoints x 2 models x 2 corpora = 40 cells; each cell forwards 4 x 64 contexts x 128 tokens = 32,768 tokens
through 0.4M parameters. About two minutes on 2 cores.
Expect: anisotropy near 0.1 in every layer of both models at step 0; after 256 steps it is higher in the decoder's
middle layers. The models and their training are too small for the paper's dome: the demo shows only the pipeline.
"""

from pathlib import Path

from pipeline.cli import run_job_module
from pipeline.demo import demo_sweep

SWEEP = demo_sweep(Path("shapelake-demo"))

if __name__ == "__main__":
    run_job_module()
