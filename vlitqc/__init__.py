"""Quality control for vision-language instruction-tuning data.

::

    import vlitqc

    found = vlitqc.inspect("data.jsonl")          # without any model: .records, .media, .issues, .as_json()
    run = vlitqc.score("data.jsonl")              # a Run: .scores (pandas), .scorecard (dict), .issues
    mask = run.filter(where="matching_degree >= 22")   # which records stay: a Boolean Series, nothing written
    result = vlitqc.filter(run, drop_below={"matching_degree": "p10"})    # writes the kept and the dropped
    result.decisions                              # one row a record, with every rule that it failed
    found = vlitqc.validate(run)                  # which metric notices which corruption: .cells (pandas), .as_json()
    found = vlitqc.compare(run, "other.vlitqc")   # side by side: .table, .differences (pandas), .write("page.html")
    found = vlitqc.correlate(*runs, benchmarks="scores.csv")   # metrics with benchmarks: .table (pandas)

Rules are objects too, and conditions compose by ``&``, ``|`` and ``~``::

    blurred = vlitqc.Threshold.parse("image_readability=p5", "below")
    broken = vlitqc.HasIssue.parse("error")
    vlitqc.filter(run, rules=[vlitqc.Rule(broken | (blurred & ~vlitqc.Where("task == \"ocr\"")))])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vlitqc.comparison.benchmarks import Correlations, correlate
    from vlitqc.comparison.compare import Comparison, compare
    from vlitqc.engine.inspection import inspect
    from vlitqc.engine.run import Run, score
    from vlitqc.filtering.apply import Filtered
    from vlitqc.filtering.conditions import And, HasIssue, Not, Or, Threshold, Where
    from vlitqc.filtering.levels import Level
    from vlitqc.filtering.recipes import Recipe
    from vlitqc.filtering.rules import Rule
    from vlitqc.filtering.selection import Selection
    from vlitqc.validity.experiment import validate
    from vlitqc.validity.result import Validity

__all__ = [
    "And",
    "Comparison",
    "Correlations",
    "HasIssue",
    "Level",
    "Not",
    "Or",
    "Rule",
    "Run",
    "Selection",
    "Threshold",
    "Validity",
    "Where",
    "compare",
    "correlate",
    "filter",
    "inspect",
    "score",
    "validate",
]


def filter(
    run: Run | str | Path | Sequence[str | Path],
    *,
    drop_below: Mapping[str, float | str] | None = None,
    drop_above: Mapping[str, float | str] | None = None,
    drop_issues: str | Iterable[str] = (),
    where: str | Iterable[str] | None = None,
    rules: Rule | Iterable[Rule] = (),
    recipe: str | Path | Recipe | None = None,
    recommended: bool = False,
    by: str | None = None,
    missing: Literal["keep", "drop", "error"] = "keep",
    selection: Selection | None = None,
    keep: int | str | None = None,
    balance: str | None = None,
    quotas: Mapping[str, int] | None = None,
    diversity: Literal["greedy", "facility_location", "none"] | None = None,
    must_keep: str | Iterable[str] = (),
    out: str | Path | None = None,
    dry_run: bool = False,
    effect: bool = False,
    principles: bool = True,
    seed: int = 0,
) -> Filtered:
    """Divide a run's input into kept and dropped records, by rules and, if asked for, by a selection.

    Args:
        run: a Run, a run directory, or the path or paths that were scored.
        drop_below: column to level; strictly lower scores go. A level is a number, a percentile (``"p10"``), or
            how far from the centre: ``"z2"`` two standard deviations from the mean, ``"mad3"`` three scaled median
            absolute deviations from the median.
        drop_above: likewise, strictly higher scores go.
        drop_issues: a kind of issue whose records go, or several; ``"error"`` means every issue of that severity.
        where: an expression, or several, that a record must fulfil to stay, such as
            ``"matching_degree >= 22 and (text_only or image_readability > p5)"``.
        rules: rules as objects.
        recipe: a shipped recipe's name or the path of a recipe file. Without it and any rule: ``"subset"`` if
            ``keep`` is given, else ``"clean"``.
        recommended: add the floors that the run's profile recommends.
        by: a column such as ``"task"``, whose groups each have levels of their own in ``drop_below``,
            ``drop_above`` and ``where``.
        missing: what becomes of a record for which one of these three cannot be told, because a score is
            missing: ``"keep"``, ``"drop"``, or ``"error"``, which raises.
        selection: of the records that the rules keep, select some; the next four change a field of it.
        keep: how many, as a number or a share: ``20000`` or ``"20%"``.
        balance: a column such as ``"task"``, whose groups get equal shares.
        quotas: task to the most that are selected of it.
        diversity: how records that are too near to selected ones are left out; ``"greedy"`` where nothing says.
        must_keep: an id or several whose records stay, whatever the rules and the selection say.
        out: the folder for the files; by default beside the input.
        dry_run: decide, write nothing.
        effect: also find what the filter does, as the result's ``effect``.
        principles: whether that has what it does to the scorecard, which takes longest.
        seed: of everything random in a selection.

    Raises:
        UsageError, UnknownName: a value is of the wrong type, or does not fit the run.
        InputError: the input has changed since it was scored.
        RunError: no finished run, or files cannot be read or written.
    """
    from vlitqc.engine.run import Run
    from vlitqc.filtering.request import filtered

    return filtered(
        run if isinstance(run, Run) else Run.open(run),
        drop_below=drop_below,
        drop_above=drop_above,
        drop_issues=drop_issues,
        where=where,
        rules=rules,
        recipe=recipe,
        recommended=recommended,
        by=by,
        missing=missing,
        selection=selection,
        keep=keep,
        balance=balance,
        quotas=quotas,
        diversity=diversity,
        must_keep=must_keep,
        out=out,
        dry_run=dry_run,
        effect=effect,
        principles=principles,
        seed=seed,
    )


def __getattr__(name: str) -> Any:
    # ``import vlitqc`` stays cheap: pandas, the engine and the rules come in with the first use.
    home: ModuleType
    if name in ("Run", "score"):
        from vlitqc.engine import run as home
    elif name == "inspect":
        from vlitqc.engine import inspection as home
    elif name in ("Comparison", "compare"):
        from vlitqc.comparison import compare as home
    elif name in ("Correlations", "correlate"):
        from vlitqc.comparison import benchmarks as home
    elif name in ("And", "HasIssue", "Not", "Or", "Threshold", "Where"):
        from vlitqc.filtering import conditions as home
    elif name == "Level":
        from vlitqc.filtering import levels as home
    elif name == "Rule":
        from vlitqc.filtering import rules as home
    elif name == "validate":
        from vlitqc.validity import experiment as home
    elif name == "Validity":
        from vlitqc.validity import result as home
    elif name == "Selection":
        from vlitqc.filtering import selection as home
    else:
        raise AttributeError(f"module 'vlitqc' has no attribute '{name}'")
    return getattr(home, name)
