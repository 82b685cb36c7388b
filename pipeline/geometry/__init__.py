"""Numerical core: moments, spectra, exact neighbours and dimensions of hidden states. It reads and writes no files.

`describe` measures one matrix and returns a dict keyed by column name. `MomentStream`, `PointCloud` and
`describe_layer` do the same for layers that arrive in batches.
"""

from pipeline.geometry.accumulator import LayerMoments
from pipeline.geometry.cloud import PointCloud
from pipeline.geometry.describe import describe, describe_layer
from pipeline.geometry.device_copies import HostCopy, to_device
from pipeline.geometry.memory_plan import plan_passes
from pipeline.geometry.moment_stream import MomentStream, PilotStream, SinkStream
from pipeline.geometry.precision import set_threads
from pipeline.geometry.similarity import record_layer

__all__ = [
    "HostCopy",
    "LayerMoments",
    "MomentStream",
    "PilotStream",
    "PointCloud",
    "SinkStream",
    "describe",
    "describe_layer",
    "plan_passes",
    "record_layer",
    "set_threads",
    "to_device",
]
