"""Benchmark against peer libraries and against hardware floors, measured side by side in one process.

Command: make bench (installs the peers in .bench/ first), or
python -m jobs.bench [--only GROUP,...] [--json FILE] [--device cpu|cuda] [--quick]   (--help lists the groups)
Each row compares two sides, which run alternately in rounds: five rounds for most rows with a target. It states the
medians over the rounds, and the ratio with its spread. Compute-bound work is measured in CPU seconds, which other
processes disturb less than wall time; work that waits for disks or processes is measured in wall seconds. A side that
is too slow to run in full is measured on a part of the work and scaled up, as its row states. A terminal shows the
current round and side.
Cost: half an hour on 2 idle cores, nearly half of it for the checkpoint and a quarter for the k-NN of 40,000 points;
five minutes with --quick.
Expect: the tables in results/, on the machines that they name.
"""
