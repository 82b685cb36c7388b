"""Similarity records, and the comparisons of two layers from their records. This package needs only NumPy.

Records are made from hidden states by `pipeline.geometry.similarity`.
"""
