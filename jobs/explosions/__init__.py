"""Does intrinsic dimension rise before the loss explodes, and does it warn earlier than what costs nothing?

Source: the claim, Razzhigaev et al. 2024 (arXiv 2311.05928) and its authors' posts; the rival, sign diversity, Spectral
Alignment (arXiv 2510.04202).
Command: python -m jobs.explosions --out FOLDER [--seeds 8] [--first 100]; in small: make explosions-small
Cost: 7 CPU seconds a run, 96 runs: eleven minutes of one core. Killed at any time, it goes on.
Expect: explosions.md beside this file; `--table FILE` writes its like.

Stated before any run of the table was looked at (the rule for a warning was narrowed after an earlier one):
- A spike is a step whose training loss exceeds mean + 6 sigma of the 128 steps before it (OLMo-core's monitor); the
  event is the first one after training was disturbed, and ends the run.
- A warning is an alarm that begins after the first disturbed update and before the event, at most 128 steps ahead.
- Each detector is one number against its own last 128 steps: (value - median) / (1.4826 MAD), beyond a threshold.
  Layers enter as the mean over blocks. Thresholds are set on half of the calm runs, to a wanted share of them with a
  false alarm; the other half and all disturbed runs, on which no detector was chosen, decide.
The strength of the disturbances was tried out beforehand, for whether and when the loss explodes, mostly on the loss
alone and on small seeds; --first 100 leaves these out. Every run has a seed of its own, and so its own weights, batches
and disturbance.
"""
