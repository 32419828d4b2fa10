"""The scorecard: what ``scorecard.json`` holds. Its JSON Schema is ``scorecard.schema.json`` beside this file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import pyarrow as pa

from vlitqc.engine.plan import Planned
from vlitqc.models.store import ModelStore
from vlitqc.types import Principle

SCHEMA = "vlitqc-scorecard/1"
EXAMPLES = 5
SEVERITIES = ("error", "warning", "note")


def schema() -> dict[str, Any]:
    """The published JSON Schema of a scorecard."""
    text = resources.files(__package__).joinpath("scorecard.schema.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def metric_section(planned: Planned, summary: Mapping[str, Any]) -> dict[str, Any]:
    """One metric: what it is, what it found, how to read it."""
    spec = planned.spec
    return {
        "name": spec.name,
        "title": spec.title,
        "principle": str(spec.principle),
        "level": spec.level,
        "summary": spec.summary,
        "unit": spec.unit,
        "bounds": [_finite(b) for b in spec.bounds],
        "higher_is_better": spec.higher_is_better,
        "reduction": spec.reduction,
        "version": spec.version,
        "source": spec.source,
        "models": [slot for slot, _ in planned.models],
        **summary,
        "interval": list(summary["interval"]) if summary["interval"] else None,
        "floor": planned.entry.floor,
        "reference": dict(planned.entry.reference) if planned.entry.reference else None,
    }


def failed(metrics: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics without a value because something is broken, not because they do not apply."""
    return [
        m["name"]
        for m in metrics
        if m["value"] is None and str(m["reason"]).startswith(("error", "model unavailable"))
    ]


def principle_sections(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All ten principles in the paper's order, also those that no metric of the run serves."""
    return [
        {
            "id": str(principle),
            "title": principle.label,
            "metrics": [m for m in metrics if m["principle"] == principle],
        }
        for principle in Principle
    ]


def issue_section(issues: pa.Table) -> list[dict[str, Any]]:
    """Issues by kind, gravest and most frequent first, each with the first few places."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for issue in issues.to_pylist():
        found.setdefault((issue["kind"], issue["severity"]), []).append(issue)
    return [
        {
            "kind": kind,
            "severity": severity,
            "n": len(rows),
            "examples": [{k: row[k] for k in ("file", "line", "id", "detail")} for row in rows[:EXAMPLES]],
        }
        for (kind, severity), rows in sorted(
            found.items(), key=lambda item: (SEVERITIES.index(item[0][1]), -len(item[1]), item[0][0])
        )
    ]


def model_section(models: ModelStore, planned: Sequence[Planned]) -> list[dict[str, Any]]:
    """Every model that the run used, also those that models use."""
    slots = {slot for p in planned if p.metric is not None for slot in models.slots(p.entry)}
    used = {slot: models.ref(slot) for slot in slots}
    return [
        {
            "slot": slot,
            "kind": ref.kind,
            "name": ref.name,
            "revision": ref.revision,
            "sha256": ref.sha256,
            "licence": models.profile.models[slot].licence,
            "package": next((f.package for f in models.profile.models[slot].files), None),
        }
        for slot, ref in sorted(used.items())
    ]


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None
