"""The numerical core: moments, spectra, exact neighbours and dimensions of hidden states. Pure functions, no I/O.

`describe` takes a matrix and returns a dict by column name; `Stream`, `Cloud` and `describe_layer` are the same for
layers that arrive in batches.
"""

from pipeline.geometry.accumulator import LayerMoments
from pipeline.geometry.cloud import PointCloud
from pipeline.geometry.describe import describe, describe_layer
from pipeline.geometry.device_copies import HostCopy, to_device
from pipeline.geometry.memory_plan import plan_passes
from pipeline.geometry.moment_stream import MomentStream
from pipeline.geometry.precision import set_threads

__all__ = [
    "HostCopy",
    "LayerMoments",
    "MomentStream",
    "PointCloud",
    "describe",
    "describe_layer",
    "plan_passes",
    "set_threads",
    "to_device",
]
