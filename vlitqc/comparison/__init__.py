"""Data sets side by side: the paper's table, differences with intervals, diversity at equal size. No model runs."""
