"""Issues of a metric at the places of their samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlitqc.types import FeatureStore, Issue, Severity


def issues_at(
    store: FeatureStore, kind: str, severity: Severity, samples: Sequence[int], details: Sequence[str]
) -> list[Issue]:
    """An issue of this kind for each of ``samples``, with its own detail. Only their places are read."""
    if not samples:
        return []
    places = (store.column(name, np.array(samples, np.int64)) for name in ("file", "line", "row", "id"))
    return [Issue(kind, severity, detail, *place) for detail, *place in zip(details, *places, strict=True)]
