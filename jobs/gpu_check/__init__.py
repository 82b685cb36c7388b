"""Check of a GPU machine in one command: the tests that need a GPU, then the benchmark at full size.

Command: make gpu-check, or python -m jobs.gpu_check [--out DIR] [--quick] [--device cpu]
Parts run one after another, each in a process of its own and within its share of eight minutes: the tests, a decoder of
1.3B random weights that reads one million tokens, k-NN of 100,000 points of 4,096 dimensions, FAISS against torch,
spectra, and each kernel against its floor. After each part, DIR/gpu-check.json and DIR/gpu-check.md are written again,
so a run that is cut off leaves what it measured. Packages that the machine lacks are named, and their parts skipped.
Exit code: 1 if a part failed or was cut off, 2 if the check cannot start on this machine, otherwise 0. Parts that were
skipped and targets that fall short are reported, and do not change it.
Cost: at most eight minutes of one GPU with 32 GiB; nothing is downloaded or written outside DIR.
Expect: the tables in jobs/bench/results/, on the machines that they name.
"""
