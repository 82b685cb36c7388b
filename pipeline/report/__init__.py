"""A lake to look at: the one-file page, and the paper's figures."""

from pipeline.report.figures import FIGURES, figure, spec
from pipeline.report.page import write

__all__ = ["FIGURES", "figure", "spec", "write"]
