"""Small pictures of numbers as inline SVG: presentation attributes and classes only, no style, no script."""

from vlitqc_reports.charts.bars import ranked, stacked, strip
from vlitqc_reports.charts.curves import curve
from vlitqc_reports.charts.heatmaps import correlations, sizes
from vlitqc_reports.charts.histograms import histogram
from vlitqc_reports.charts.references import against_paper

__all__ = [
    "against_paper",
    "correlations",
    "curve",
    "histogram",
    "ranked",
    "sizes",
    "stacked",
    "strip",
]
