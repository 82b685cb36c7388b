"""shapelake: the geometry of language-model checkpoints, from a training history to a Parquet lake.

Read `measure.py` first. Imports go one way:
spec <- geometry <- model <- measure <- sweep <- cli; `lake` knows only `spec`.
"""
