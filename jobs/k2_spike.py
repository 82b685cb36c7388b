"""Does the geometry of a 65B model change before, during or after the two spikes of its loss?

Source: LLM360, K2-Spike-1 and K2-Spike-2: the checkpoints around two spikes of K2's pre-training (model cards).
Command: python -m jobs.k2_spike --lake LAKE --set resources.gpus=8 --set resources.gpu_gb=80
Bytes: 6.5e10 parameters, 2 bytes each; every second one of spike_ckpt_160 to 194 and of 186 to 200 (model cards):
26 x 2 x 6.5e10 = 3.4e12; 1.3e11 per checkpoint. `shapelake audit LLM360/K2-Spike-1` counts the published ones.
GPU-hours: forward passes of 4 x 64 x 128 = 32768 tokens, in bfloat16 at 2e14 FLOP/s per task of three GPUs (gpu_gb):
26 x 2 x 6.5e10 x 3.28e4 / 2e14 / 3600 = 0.154. Loading and metrics are not included and take longer.
Expect: unknown. Branches are numbered by checkpoint and state no step, so `findings explosions` cannot order them:
compare anisotropy, id_mle and loss by revision with `shapelake query`.
"""

from pipeline.cli import run_job_module
from pipeline.spec import Corpus, Members, Sweep, built_in_recipe

SWEEP = Sweep(
    name="k2-spike",
    checkpoints=(Members(family="k2-spike"),),
    corpora=(Corpus(kind="enwik8"),),
    recipe=built_in_recipe("quick@1"),
)

if __name__ == "__main__":
    run_job_module()
