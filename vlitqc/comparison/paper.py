"""The paper's tables of data sets: their columns, and to how many digits they are printed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column of Table 3 or of Table 4 and the metric that stands in it; ``decimals`` follow the point."""

    head: str
    metric: str
    decimals: int
    table: int


COLUMNS = (
    Column("TR", "text_readability", 2, 3),
    Column("MD", "matching_degree", 1, 3),
    Column("C", "correctness", 1, 3),
    Column("T", "task_diversity", 0, 3),
    Column("I", "instruction_diversity", 1, 3),
    Column("R", "response_diversity", 1, 3),
    Column("O/G", "granularity_complexity", 1, 3),
    Column("I_cx", "instruction_complexity", 1, 3),
    Column("Balance", "task_balance", 1, 3),
    Column("IR", "image_readability", 4, 4),
    Column("SD", "visual_semantic_diversity", 0, 4),
    Column("OD", "object_diversity", 1, 4),
    Column("VSC", "visual_complexity", 1, 4),
)
OF_METRIC = {column.metric: column for column in COLUMNS}
