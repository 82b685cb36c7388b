"""How fast is this beside its peers and beside the hardware's floor, measured side by side in one process run?

Command: make bench (installs the peers in .bench/ first), or
python -m jobs.bench [--only GROUP,...] [--json FILE] [--device cpu|cuda] [--quick]   (--help lists the groups)
Every row is the median of interleaved rounds of both sides, at least five where a target stands, with the spread of
their ratio; work that computes counts CPU seconds, which other work disturbs less than wall time, work that waits for
disks or processes wall seconds. A side too slow to be run whole is measured on a slice and scaled up, and its row says
so. A terminal shows which side of which round is running.
Cost: half an hour on 2 quiet cores, nearly half of it the checkpoint and a quarter the k-NN of 40,000 points; --quick
five minutes.
Expect: the table in the README, on the machine it names.
"""
