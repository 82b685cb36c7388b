"""shapelake: the geometry of language-model checkpoints, from a training history to a Parquet lake.

Read `measure.py` first. Imports go one way: in the order spec, geometry, model, measure, sweep, cli, a package imports
only packages before it, and `lake` imports only `spec` of these. tests/test_architecture.py checks the full table.
"""
