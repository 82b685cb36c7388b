"""Similarity records, with which a layer can be compared with any other, and the comparisons. NumPy only.

Records are made from hidden states by `pipeline.geometry.similarity`.
"""
