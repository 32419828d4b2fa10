"""Data sets side by side as one self-contained HTML file; it holds no script at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlitqc_reports import html, wording
from vlitqc_reports.charts import overlays

_STYLES = ("base", "charts", "compare", "print")


def write_comparison(found: Mapping[str, Any], out: Path) -> Path:
    """Write the page of a comparison, as ``vlitqc compare --json`` gives it, and return its place.

    It appears whole or not at all. Raises OSError where it cannot be written.
    """
    return html.put(render(found), out)


def render(found: Mapping[str, Any]) -> str:
    """The page as text."""
    env = html.environment()
    css = "".join(html.source(env, f"css/{name}.css") for name in _STYLES)
    env.globals |= {"overlays": overlays, "cell": _cell}
    rules = ("default-src 'none'", f"style-src {html.source_hash(css)}", "img-src data:")
    metrics = {metric["name"]: metric for metric in found["metrics"]}
    columns = [column for column in found["columns"] if column["metric"] in metrics]
    return env.get_template("compare.html.j2").render(
        found=found,
        sets=found["sets"],
        letters=[data["letter"] for data in found["sets"]],
        metrics=metrics,
        tables=[[column for column in columns if column["table"] == number] for number in (3, 4)],
        pairs=[_pair(found, i) for i in range(1, len(found["sets"]))],
        sized=sorted(filter(_is_sized, found["metrics"]), key=_has_no_curve),
        spread=[metric for metric in found["metrics"] if metric["histogram"]],
        nowhere=[metric for metric in found["metrics"] if not any(map(_has_value, metric["values"]))],
        css=Markup(css),  # noqa: S704 our own file
        policy="; ".join((*rules, "base-uri 'none'", "form-action 'none'")),
    )


def _is_sized(metric: Mapping[str, Any]) -> bool:
    return metric["fair"] is not None


def _has_no_curve(metric: Mapping[str, Any]) -> bool:
    return not any(side and side["curve"] for side in metric["fair"]["sets"])


def _has_value(value: Mapping[str, Any] | None) -> bool:
    return value is not None and value["value"] is not None


def _cell(metric: Mapping[str, Any], i: int, decimals: int) -> str:
    """A value as the paper prints it."""
    value = metric["values"][i]
    return wording.number(value["value"], decimals) if _has_value(value) else "–"


def _pair(found: Mapping[str, Any], i: int) -> dict[str, Any]:
    """What differs between the first data set and another one."""
    rows, without = [], []
    for metric in found["metrics"]:
        told = metric["differences"][i]
        if told["printed"] is not None:
            rows.append(_row(metric, told))
        elif any(map(_has_value, metric["values"])):
            without.append((metric["title"], told["reason"] or "it has no interval"))
    return {
        "data": found["sets"][i],
        "rows": rows,
        "without": without,
    }


def _row(metric: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    printed = {key: text.replace("-", wording.MINUS) for key, text in told["printed"].items()}
    better = metric["higher_is_better"]
    improved = None if better is None or not told["value"] else (told["value"] > 0) == better
    return {
        "metric": metric,
        **printed,
        "span": overlays.span(told["value"], *told["interval"]),
        "is_clear": bool(told["clear"]),
        "holds": bool(told["holds"]),
        "word": {None: "differs", True: "better", False: "worse"}[improved],
    }
