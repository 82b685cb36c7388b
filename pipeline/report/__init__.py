"""A lake to look at: the one-file page, and the paper's figures."""

from pipeline.report.figures import FIGURES, build_figure_spec, draw_figure
from pipeline.report.page import write_report

__all__ = ["FIGURES", "build_figure_spec", "draw_figure", "write_report"]
