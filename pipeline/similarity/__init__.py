"""Similarity records: what is stored of a layer to compare it with any other, and the comparisons. NumPy only.

Records are made from hidden states by `pipeline.geometry.similarity`.
"""
