"""The numerical core: moments, spectra, exact neighbours and dimensions of hidden states. Pure functions, no I/O.

`describe` takes a matrix and returns a dict by column name; `Stream`, `Cloud` and `describe_layer` are the same for
layers that arrive in batches.
"""

from pipeline.geometry.accumulator import LayerMoments
from pipeline.geometry.candidates import set_threads
from pipeline.geometry.cloud import Cloud
from pipeline.geometry.describe import describe, describe_layer
from pipeline.geometry.stream import Stream

__all__ = ["Cloud", "LayerMoments", "Stream", "describe", "describe_layer", "set_threads"]
