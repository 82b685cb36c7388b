"""Does intrinsic dimension rise before the loss explodes, and does it warn earlier than signals that cost nothing?

Source: for the claim, Razzhigaev et al. 2024 (arXiv 2311.05928) and posts of its authors; for the competing signal,
sign diversity, Spectral Alignment (arXiv 2510.04202).
Command: python -m jobs.explosions --out FOLDER [--seeds 8] [--first 100]; small version: make explosions-small
Cost: 7 CPU seconds per run, 96 runs: eleven minutes of one core. An interrupted study resumes where it stopped.
Expect: a table like that of explosions.md beside this file; `--table FILE` writes it.

Fixed before any run of the table was examined (the rule for a warning was narrowed after an earlier table):
- A spike is a step whose training loss exceeds mean + 6 sigma of the 128 steps before it (OLMo-core's monitor); the
  event is the first spike after training was disturbed, and ends the run.
- A warning is an alarm that begins after the first disturbed update and 1 to 128 steps before the event.
- Each detector compares one number with its values in the last 128 steps. It raises an alarm if z exceeds a threshold:
  z = (value - median) / (1.4826 MAD). A number that each block has enters as the mean over the blocks.
- Half of the calm runs set the thresholds, so that at most a chosen share of them has a false alarm. The other half and
  all disturbed runs give the results; they were not used to choose detectors.
The strengths of the disturbances, which set whether and when the loss explodes, were tuned beforehand, mostly on the
loss alone and on small seeds, which --first 100 skips. Every run has its own seed, and so its own weights, batches and
disturbance.
"""
