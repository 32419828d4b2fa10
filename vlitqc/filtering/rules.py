"""Rules: what to drop, as data. A threshold is a number or a percentile of the run's own scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlitqc.analysis.issues import KINDS
from vlitqc.errors import UnknownName, UsageError

_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")


class Rule(Protocol):
    """Says which records fail, and how that is put in words."""

    def failed(self, scores: pd.DataFrame, issues: pd.DataFrame) -> tuple[NDArray[np.bool_], str]:
        """A mask over the rows of ``scores`` and the rule in words, its threshold as a number."""
        ...


@dataclass(frozen=True, slots=True)
class Threshold:
    """Drop what lies strictly below (or above) a level. A record without a score is kept.

    ``level`` is a number, or ``p10`` for the 10th percentile of the scores present in the run.
    """

    metric: str
    side: Literal["below", "above"]
    level: str

    @classmethod
    def parse(cls, text: str, side: Literal["below", "above"]) -> Threshold:
        """From ``metric=level``. Raises UsageError saying what was expected."""
        metric, equals, level = text.partition("=")
        if not equals or not metric:
            raise UsageError(
                f"--drop-{side} {text!r}: expected METRIC=NUMBER or METRIC=pPERCENT, as in matching_degree=p10"
            )
        rule = cls(metric.strip(), side, level.strip())
        rule._level(np.zeros(1))
        return rule

    def failed(self, scores: pd.DataFrame, issues: pd.DataFrame) -> tuple[NDArray[np.bool_], str]:
        """Rows beyond the level. Raises UnknownName for a column that the run does not have."""
        known = threshold_columns(scores)
        if self.metric not in known:
            raise UnknownName("metric with scores in this run", self.metric, known)
        values = scores[self.metric].to_numpy(dtype=np.float64, na_value=np.nan)
        present = values[~np.isnan(values)]
        if not len(present):
            return np.zeros(
                len(values), bool
            ), f"{self.metric} {self._sign} {self.level} (no record has a score)"
        level = self._level(present)
        with np.errstate(invalid="ignore"):
            mask = values < level if self.side == "below" else values > level
        shown = f"{level:.6g}" + (f" ({self.level})" if self.level.startswith("p") else "")
        return mask, f"{self.metric} {self._sign} {shown}"

    @property
    def _sign(self) -> str:
        return "<" if self.side == "below" else ">"

    def _level(self, present: NDArray[np.float64]) -> float:
        percentile = _PERCENTILE.fullmatch(self.level)
        try:
            value = float(percentile[1] if percentile else self.level)
        except ValueError:
            value = np.nan
        if not np.isfinite(value) or (percentile and value > 100):
            raise UsageError(
                f"--drop-{self.side} {self.metric}={self.level}: expected a number such as 12.5, "
                f"or p0 to p100 for a percentile"
            )
        return float(np.percentile(present, value)) if percentile else value


@dataclass(frozen=True, slots=True)
class HasIssue:
    """Drop records with an issue of this kind, or of severity ``error`` when the kind is ``error``."""

    kind: str

    def failed(self, scores: pd.DataFrame, issues: pd.DataFrame) -> tuple[NDArray[np.bool_], str]:
        """Rows that carry the issue. A kind that the run did not find drops nothing.

        Raises UnknownName for a kind that vlitqc does not know either.
        """
        known = {"error", *KINDS, *issues["kind"]}
        if self.kind not in known:
            raise UnknownName("kind of issue", self.kind, known)
        field = "severity" if self.kind == "error" else "kind"
        rows = issues.loc[issues[field] == self.kind, "row"].to_numpy()
        return np.isin(scores["row"].to_numpy(), rows), f"issue {self.kind}"


def threshold_columns(scores: pd.DataFrame) -> list[str]:
    """The numeric columns that a threshold makes sense for: metrics and their parts."""
    place = {"row", "line", "start", "end"}
    return [c for c in scores.columns if c not in place and pd.api.types.is_numeric_dtype(scores[c])]


def floors(metrics: Mapping[str, Mapping[str, Any]]) -> list[Threshold]:
    """The recommended floors of a run's profile, for the metrics that it scored.

    Raises UsageError where there is none.
    """
    found = [
        Threshold(name, "below", str(m["floor"]))
        for name, m in metrics.items()
        if m["floor"] is not None and m["n_scored"]
    ]
    if not found:
        raise UsageError(
            "the run's profile recommends no floor for what it scored; name one, as in --drop-below METRIC=p10"
        )
    return found


def decide(
    scores: pd.DataFrame, issues: pd.DataFrame, rules: Sequence[Rule]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row a record: ``kept``, and every rule that it failed; beside it, how many each rule fails.

    A record that could not be read fails for that reason alone.
    """
    unreadable = (scores["state"] == "unreadable").to_numpy()
    failed: list[list[str]] = [["unreadable"] if bad else [] for bad in unreadable]
    counts: dict[str, int] = {}
    for rule in rules:
        mask, words = rule.failed(scores, issues)
        mask &= ~unreadable
        counts[words] = int(mask.sum())
        for i in np.flatnonzero(mask):
            failed[i].append(words)
    decisions = scores[["row", "id", "file", "line"]].copy()
    decisions["kept"] = [not reasons for reasons in failed]
    decisions["rules_failed"] = failed
    return decisions, counts
