"""HTML report of a lake, and the paper's figures drawn from it."""

from pipeline.report.comparison_page import write_comparison, write_population
from pipeline.report.figure_data import FigureOptions
from pipeline.report.figures import FIGURES, build_figure_spec, draw_all_figures, draw_figure
from pipeline.report.report_writer import write_report

__all__ = [
    "FIGURES",
    "FigureOptions",
    "build_figure_spec",
    "draw_all_figures",
    "draw_figure",
    "write_comparison",
    "write_population",
    "write_report",
]
