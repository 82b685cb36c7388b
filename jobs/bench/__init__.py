"""How fast is this beside its peers and beside the hardware's floor, measured side by side in one process run?

Command: make bench (installs the peers in .bench/ first), or
python -m jobs.bench [--only knn,spectrum,measure,sweep,lake,training] [--json FILE] [--device cpu|cuda] [--quick]
Every row is the median of interleaved rounds of both sides, with the spread of their ratio; work that computes counts
CPU seconds, which other work disturbs less than wall time, work that waits for disks or processes wall seconds. A peer
too slow to be run whole is measured on a slice and scaled up, and its row says so.
Cost: two hours on 2 cores, nearly half of it the k-NN of 40,000 points; --quick ten minutes.
Expect: the table in the README, on the machine it names.
"""
