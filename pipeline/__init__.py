"""shapelake: the geometry of language-model checkpoints, from a training history to a Parquet lake.

Read `measure.py` first. Imports go one way, checked by tests/test_architecture.py:
spec <- geometry <- model <- measure <- sweep <- cli; `lake` imports only `spec`.
"""
