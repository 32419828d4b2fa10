"""Quality control for vision-language instruction-tuning data.

::

    import vlitqc

    found = vlitqc.inspect("data.jsonl")          # without any model: .records, .media, .issues, .as_json()
    run = vlitqc.score("data.jsonl")              # a Run: .scores (pandas), .scorecard (dict), .issues
    result = vlitqc.filter(run, drop_below={"matching_degree": "p10"})
    result.decisions                              # one row a record, with every rule that it failed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlitqc.engine.inspection import inspect
    from vlitqc.engine.run import Run, score
    from vlitqc.filtering.apply import Filtered

__all__ = ["Run", "filter", "inspect", "score"]


def filter(
    run: Run | str | Path | Sequence[str | Path],
    *,
    drop_below: Mapping[str, float | str] | None = None,
    drop_above: Mapping[str, float | str] | None = None,
    drop_issues: str | Sequence[str] = (),
    recommended: bool = False,
    out: str | Path | None = None,
    dry_run: bool = False,
) -> Filtered:
    """Divide a run's input into kept and dropped records by thresholds.

    Args:
        run: a Run, a run directory, or the path or paths that were scored.
        drop_below: metric to level, a number or a percentile such as ``"p10"``; strictly lower scores go.
        drop_above: likewise, strictly higher scores go.
        drop_issues: a kind of issue whose records go, or several; ``"error"`` means every issue of that severity.
        recommended: add the floors that the run's profile recommends.
        out: the folder for the files; by default beside the input.
        dry_run: decide, write nothing.

    A record without a score for a metric is not dropped by that metric's rule.

    Raises:
        UsageError, UnknownName: no rule, or one that does not fit the run.
        InputError: the input has changed since it was scored.
        RunError: no finished run, or the files cannot be written.
    """
    from vlitqc.engine.run import Run
    from vlitqc.errors import UsageError
    from vlitqc.filtering.apply import filter_run
    from vlitqc.filtering.rules import HasIssue, Rule, Threshold, floors

    for option, levels in (("drop_below", drop_below), ("drop_above", drop_above)):
        if levels is not None and not isinstance(levels, Mapping):
            raise UsageError(
                f"{option}={levels!r}: expected levels by metric, as in {{'matching_degree': 'p10'}}"
            )
    kinds = [drop_issues] if isinstance(drop_issues, str) else drop_issues
    opened = run if isinstance(run, Run) else Run.open(run)
    rules: list[Rule] = list(floors(opened.metrics())) if recommended else []
    rules += [Threshold.parse(f"{metric}={level}", "below") for metric, level in (drop_below or {}).items()]
    rules += [Threshold.parse(f"{metric}={level}", "above") for metric, level in (drop_above or {}).items()]
    rules += [HasIssue(kind) for kind in kinds]
    return filter_run(opened, rules, out=Path(out) if out is not None else None, dry_run=dry_run)


def __getattr__(name: str) -> Any:
    # ``import vlitqc`` stays cheap: pandas and the engine come in with the first use.
    if name in ("Run", "score"):
        from vlitqc.engine import run

        return getattr(run, name)
    if name == "inspect":
        from vlitqc.engine.inspection import inspect

        return inspect
    raise AttributeError(f"module 'vlitqc' has no attribute '{name}'")
