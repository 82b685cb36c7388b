"""HTML report of a lake, and the paper's figures drawn from it."""

from pipeline.report.figures import FIGURES, build_figure_spec, draw_figure
from pipeline.report.report_writer import write_report

__all__ = ["FIGURES", "build_figure_spec", "draw_figure", "write_report"]
