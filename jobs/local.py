"""Does the hidden-state geometry of your own model change over its training?

Command: python -m jobs.local --lake LAKE --set 'checkpoints=[{local: PATH}]' [--set 'corpora=[{text: FILE}]']
PATH holds one subfolder per checkpoint (checkpoint-500, step1000, ...) as written by save_pretrained or transformers'
Trainer. Defaults: the folder ./checkpoints, and random tokens, which need no file.
Cost: per checkpoint and corpus 4 x 64 contexts x 128 tokens = 32,768 tokens; 160M parameters on 2 CPU cores at
80 GFLOP/s: 2 x 160e6 x 32,768 / 80e9 = 130 s.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Local, Sweep, built_in_recipe

SWEEP = Sweep(
    name="local",
    checkpoints=(Local(local="checkpoints"),),
    corpora=(Corpus(kind="random-uniform"),),
    recipe=built_in_recipe("quick@1"),
)

if __name__ == "__main__":
    run_job_module()
