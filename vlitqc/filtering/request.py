"""What a filter is asked for, in the words of the Python API and of the command line, as rules and a selection.

Both go through ``request``, so that one word means one thing. ``drop_below``, ``drop_above`` and ``quotas`` come as
mappings or as texts: ``{"matching_degree": "p10"}`` and ``["matching_degree=p10"]`` are the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

from vlitqc.engine.run import Run
from vlitqc.errors import UnknownName, UsageError
from vlitqc.filtering import recipes
from vlitqc.filtering.apply import Filtered, filter_run
from vlitqc.filtering.conditions import HasIssue, Not, Threshold, Where
from vlitqc.filtering.decisions import floors
from vlitqc.filtering.levels import Level
from vlitqc.filtering.recipes import Recipe
from vlitqc.filtering.rules import Condition, Missing, Rule
from vlitqc.filtering.selection import Diversity, Selection

DEFAULT_RECIPE = "clean"
SELECTION_RECIPE = "subset"

_OWN_WAY = re.compile(r",\s*missing\s*=([^,]*)")
"""In a threshold as text, what becomes of records without a score: ``matching_degree=p10,missing=drop``."""
DIGITS = 18
"""A quota as text has at most as many: Python refuses to read some thousand."""
_WAYS: tuple[Missing, ...] = get_args(Missing)

Levels = Mapping[str, float | str] | Sequence[str]


class Words(TypedDict, total=False):
    """What ``request`` takes beside the run; each may be left out."""

    drop_below: Levels | None
    drop_above: Levels | None
    drop_issues: str | Iterable[str]
    where: str | Iterable[str] | None
    rules: Rule | Iterable[Rule]
    recipe: str | Path | Recipe | None
    recommended: bool
    by: str | None
    missing: Missing
    selection: Selection | None
    keep: int | str | None
    balance: str | None
    quotas: Mapping[str, int] | Sequence[str] | None
    diversity: Diversity | None
    must_keep: str | Iterable[str]


@dataclass(frozen=True)
class Request:
    """The same as objects; the arguments of ``filter_run``. ``selection`` has the recipe's, changed by the words."""

    rules: tuple[Rule, ...]
    recipe: Recipe | None
    selection: Selection | None
    must_keep: tuple[str, ...]

    def apply(
        self,
        run: Run,
        *,
        out: str | Path | None = None,
        dry_run: bool = False,
        effect: bool = False,
        principles: bool = True,
        seed: int = 0,
    ) -> Filtered:
        """``filter_run`` with these arguments."""
        return filter_run(
            run,
            self.rules,
            recipe=self.recipe,
            selection=self.selection,
            must_keep=self.must_keep,
            out=out,
            dry_run=dry_run,
            effect=effect,
            principles=principles,
            seed=seed,
        )


def request(
    run: Run,
    *,
    drop_below: Levels | None = None,
    drop_above: Levels | None = None,
    drop_issues: str | Iterable[str] = (),
    where: str | Iterable[str] | None = None,
    rules: Rule | Iterable[Rule] = (),
    recipe: str | Path | Recipe | None = None,
    recommended: bool = False,
    by: str | None = None,
    missing: Missing = "keep",
    selection: Selection | None = None,
    keep: int | str | None = None,
    balance: str | None = None,
    quotas: Mapping[str, int] | Sequence[str] | None = None,
    diversity: Diversity | None = None,
    must_keep: str | Iterable[str] = (),
) -> Request:
    """The rules and the selection that these words ask for.

    The order of the rules: recommended floors, ``drop_below``, ``drop_above``, ``drop_issues``, ``where``, ``rules``.
    ``by`` and ``missing`` are those of every rule made here of words (a recommended floor has no ``by``), and of no
    rule that comes as an object or from a recipe. With no rule and no recipe the recipe is ``subset`` if ``keep`` is
    given, else ``clean``.

    Raises UsageError for a value of the wrong type or shape, and for ``by`` and ``missing`` where no rule takes them;
    UnknownName for a recipe, a word or a metric that is not known, RunError for a recipe that cannot be read.
    """
    missing = _way(missing)
    by = _text("by", by)
    grouped = bool(drop_below or drop_above or where)
    if by is not None and not grouped:
        raise UsageError(f"by={by}: no rule here takes it; give drop_below, drop_above or where")
    if missing != "keep" and not (grouped or recommended):
        raise UsageError(
            f"missing={missing}: no rule here takes it; give drop_below, drop_above or where, and in a recipe say it "
            "of each rule"
        )
    conditions: list[Condition] = [
        *(HasIssue.parse(kind) for kind in _texts("drop_issues", drop_issues)),
        *(Not(Where(text, by=by)) for text in _texts("where", where)),
    ]
    asked = (
        *(floors(run.metrics(), missing) if recommended else ()),
        *_thresholds("drop_below", drop_below, by, missing),
        *_thresholds("drop_above", drop_above, by, missing),
        *(Rule(condition, missing) for condition in conditions),
        *_rules(rules),
    )
    changes = _changes(keep, balance, quotas, diversity)
    if selection is not None and not isinstance(selection, Selection):
        raise UsageError(f"selection={selection!r}: expected vlitqc.Selection(…)")
    if recipe is None and not asked:
        recipe = DEFAULT_RECIPE if keep is None else SELECTION_RECIPE
    if recipe is not None and not isinstance(recipe, str | Path | Recipe):
        raise UsageError(f"recipe={recipe!r}: expected a recipe's name or path")
    loaded = recipe if recipe is None or isinstance(recipe, Recipe) else recipes.load(recipe)
    selection = selection or (loaded.selection if loaded else None)
    if changes:
        selection = replace(selection or Selection(), **changes)
    return Request(asked, loaded, selection, tuple(_texts("must_keep", must_keep)))


def filtered(
    run: Run,
    *,
    out: str | Path | None = None,
    dry_run: bool = False,
    effect: bool = False,
    principles: bool = True,
    seed: int = 0,
    **words: Unpack[Words],
) -> Filtered:
    """``filter_run`` with what ``request`` makes of these words."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed={seed!r}: expected a whole number, 0 or more")
    asked = request(run, **words)
    return asked.apply(run, out=out, dry_run=dry_run, effect=effect, principles=principles, seed=seed)


def _thresholds(option: str, levels: Levels | None, by: str | None, missing: Missing) -> list[Rule]:
    side: Literal["below", "above"] = "below" if option == "drop_below" else "above"
    if levels is None:
        return []
    if isinstance(levels, Mapping):
        return [
            Rule(Threshold(_column(column), side, _level(option, level), by), missing)
            for column, level in levels.items()
        ]
    if isinstance(levels, str) or not isinstance(levels, Sequence):
        raise UsageError(
            f"{option}={levels!r}: expected levels by metric, as in {{'matching_degree': 'p10'}}"
        )
    rules = []
    for text in _texts(option, levels):
        own = _OWN_WAY.search(text)
        condition = Threshold.parse(_OWN_WAY.sub("", text, count=1), side, by)
        rules.append(Rule(condition, _way(own[1].strip()) if own else missing))
    return rules


def _way(missing: object) -> Missing:
    for way in _WAYS:
        if missing == way:
            return way
    raise UnknownName("way with missing scores", str(missing), _WAYS)


def _level(option: str, level: object) -> Level:
    if isinstance(level, str):
        return Level.parse(level)
    if isinstance(level, bool) or not isinstance(level, Real):
        raise UsageError(f"{option}: {level!r} is no level; expected a number, or a text such as 'p10'")
    return Level("at", level)  # type: ignore[arg-type]


def _rules(rules: object) -> Iterable[Rule]:
    given = [rules] if isinstance(rules, Rule) else rules
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"rules={rules!r}: expected rules, as in [vlitqc.Rule(vlitqc.HasIssue(…))]")
    for rule in given:
        if not isinstance(rule, Rule):
            raise UsageError(
                f"rules: {rule!r} is a {type(rule).__name__}; expected vlitqc.Rule(condition), which drops the "
                "records for which the condition is true"
            )
        yield rule


def _changes(keep: object, balance: object, quotas: object, diversity: object) -> dict[str, Any]:
    """The fields of a selection that were given."""
    changes: dict[str, Any] = {}
    if keep is not None:
        if isinstance(keep, bool) or not isinstance(keep, int | str):
            raise UsageError(f"keep={keep!r}: expected a number of records, or a share such as '20%'")
        try:
            changes["keep"] = str(keep)
        except ValueError:  # Python writes no number of some thousand digits
            raise UsageError("keep: expected a number of records, and this has thousands of digits") from None
    if balance is not None:
        changes["balance"] = _text("balance", balance)
    if quotas:
        changes["quotas"] = _quotas(quotas)
    if diversity is not None:
        changes["diversity"] = diversity
    return changes


def _quotas(quotas: object) -> dict[str, int]:
    if isinstance(quotas, Mapping):
        pairs = list(quotas.items())
    else:
        split = [text.rpartition("=") for text in _texts("quotas", quotas)]
        pairs = [(task, int(n) if n.isdecimal() and len(n) <= DIGITS else n) for task, _, n in split]
    for task, number in pairs:
        whole = isinstance(number, int) and not isinstance(number, bool) and number >= 0
        if not isinstance(task, str) or not task or not whole:
            told = f"{task}={number}" if task else number
            raise UsageError(
                f"--quota {told} (quotas): expected TASK=N, at most so many records of a task, as in ocr=2000"
            )
    return dict(pairs)


def _texts(option: str, value: object) -> list[str]:
    """One text, several, or none, as a list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Collection | Iterable) or isinstance(value, bytes | Mapping):
        raise UsageError(f"{option}={value!r}: expected a text or several")
    texts = list(value)
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"{option}: {text!r} is of type {type(text).__name__}; expected a text")
    return texts


def _text(option: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{option}={value!r}: expected the name of a column")
    return value


def _column(value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{value!r} is of type {type(value).__name__}; expected a name")
    return value
