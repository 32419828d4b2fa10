"""Lines about issues, which the scorecard and the inspection share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from vlitqc.console.text import cut, visible

SEVERITY_STYLE = {"error": "red", "warning": "yellow", "note": "dim"}
LONGEST_DETAIL = 400
LONGEST_ID = 40


def heading(issue: Mapping[str, Any], width: int) -> Text:
    """The severity, and the kind in a column of this width."""
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{issue['severity']:<8}", style=SEVERITY_STYLE[issue["severity"]])
    return line.append(f" {visible(issue['kind']):<{width}}", style="bold")


def examples(
    issue: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], base: Path
) -> Iterator[RenderableType]:
    """Each example's place and cause; a cause that several have is told once."""
    style = "dim" if issue["severity"] == "note" else "default"
    told: dict[str, list[str]] = {}
    for example in examples:
        detail = example["detail"].removeprefix(f"{example['file']} ")
        # What the kind says already: "remote: ", "missing: ".
        detail = detail.removeprefix(f"{issue['kind'].partition('_')[0]}: ")
        told.setdefault(detail, []).append(_place(example, base))
    for detail, places in told.items():
        text = Text(", ".join(places), style="cyan")
        text.append("\n" if len(places) > 1 else "  ")
        text.append(cut(visible(detail), LONGEST_DETAIL), style)
        yield Padding(text, (0, 0, 0, 9), expand=False)


def _place(example: Mapping[str, Any], base: Path) -> str:
    """The file, where it is not the only one, the line and the id; a line of 0 stands for the whole file."""
    file, base = Path(example["file"]), base.absolute()
    place = f"{file.relative_to(base) if file.is_relative_to(base) else file.name}:{example['line']}"
    if not example["line"]:
        return visible(place.removesuffix(":0"))
    if file.absolute() == base:
        place = f"line {example['line']}"
    given = example["id"] and not example["id"].startswith(f"{file.stem}:")
    return visible(f"{place} (id {cut(example['id'], LONGEST_ID)})" if given else place)
