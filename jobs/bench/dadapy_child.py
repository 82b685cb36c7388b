"""Time DADApy in its own environment: python dadapy_child.py POINTS.npy K THREADS prints {"wall": s, "cpu": s}."""

import json
import sys
import time

import numpy as np
from dadapy import Data  # pyright: ignore[reportMissingImports]

points, k, threads = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
wall, cpu = time.perf_counter(), time.process_time()
Data(coordinates=points, maxk=k, n_jobs=threads).compute_distances(maxk=k)
print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
