"""What ``vlitqc filter`` shows: what each rule does, to which records, and what that does to the scorecard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vlitqc.console.text import clean, cut, interval, number, percent, visible

MOST_IN_TRIANGLE = 8
BAR = 20
NAMES = {"decisions": "reasons", "filter": "asked for", "control": "random", "comparison": "comparison"}
"""What the files beside the records hold, by the names that a filter gives them."""
LONGEST_NAME = 40
ROOM_FOR_INTERVALS = (112, 140)
"""Columns that the table of metrics needs with the intervals of what is compared, and with the input's too."""


def floors(found: Iterable[tuple[str, float, int]], profile: str) -> Table:
    """The recommended floors: metric, floor, and how many records lie below it."""
    table = _table(f"recommended by {clean(profile)}", "floor", "records below")
    for name, floor, below in found:
        table.add_row(clean(name), number(floor), f"{below:,}")
    return table


def filtered(page: Mapping[str, Any]) -> Group:
    """What a filter did, or with ``effect`` what it would do."""
    parts: list[RenderableType] = []
    names = page["names"]
    if page["effect"] is not None:
        parts += _effect(page["effect"], names)
    elif page["by_rule"]:
        by_rule = [(names.get(words, words), n) for words, n in page["by_rule"].items()]
        parts += [*_rules_in_short(by_rule, sum(page["counts"].values())), ""]
    if page["comparison"] is not None:
        parts += [Principles(page["comparison"], "what the rules keep"), ""]
    not_selected = page["effect"]["not_selected"] if page["effect"] else 0
    parts.append(_totals(page["counts"], page["written"], not_selected))
    limit = page["limit"]
    told = [f"note  {visible(note)}" for note in page["notes"]]
    if page["not_copied"]:
        told.append(
            f"Of the unreadable, {page['not_copied']:,} are in no output: files whose bytes cannot be had."
        )
    if limit is not None:
        told.append(f"The run had --limit {limit:,}: records after those are in none of these files.")
    for line in told:
        parts += ["", Text(line, style="yellow")]
    others = {name: path for name, path in page["written"].items() if name not in page["counts"]}
    if others:
        parts += ["", *(Text(f"{NAMES[name]:<11} {visible(path)}") for name, path in others.items())]
    return Group(*parts)


def _effect(told: Mapping[str, Any], names: Mapping[str, str]) -> list[RenderableType]:
    """Rules, overlaps, groups, metrics, and the closest calls. ``names`` are of rules by their words, for some."""
    parts: list[RenderableType] = []
    every = [{**rule, "words": names.get(rule["words"], rule["words"])} for rule in told["rules"]]
    active = [i for i, rule in enumerate(every) if rule["n"] or rule["unknown"]]
    rules = [every[i] for i in active]
    both = [[told["overlaps"][i][j] for j in active] for i in active]
    pairs = [(both[i][j], i, j) for j in range(len(rules)) for i in range(j) if both[i][j]]
    if rules:
        parts.append(_rules(rules, numbered=bool(pairs)))
    parts += _idle([rule["words"] for rule in every if rule not in rules])
    if told["rules"]:
        parts.append("")
    if pairs:
        parts += [_overlaps(rules, both, pairs), ""]
    for groups in told["groups"]:
        if len(groups["largest"]) > 1:
            parts += [_groups(groups), ""]
    if told["principles"]:
        own = frozenset(one["column"] for one in told["closest"])
        parts += [Principles(told["principles"], told["drawn_from"], own), ""]
    elif told["note"]:
        parts += [Text(f"metrics not compared: {visible(told['note'])}", style="dim"), ""]
    calls = _closest(told["closest"], names)
    if calls.row_count:
        parts += [calls, ""]
    return parts


def _totals(counts: Mapping[str, int], files: Mapping[str, str], not_selected: int) -> Table:
    """Kept, dropped (of which so many only since they were not selected) and unreadable, with the files that they
    were written to, if any."""
    table = _table("records", "n", "%")
    if files:
        table.add_column("written to", overflow="fold")
    everything = sum(counts.values())
    for name, n in counts.items():
        if n or name != "unreadable":
            share = percent(n / everything) if everything else ""
            table.add_row(name, f"{n:,}", share, *([clean(files.get(name, ""))] if files else ()))
        if name == "dropped" and not_selected:
            table.add_row("  not selected", f"{not_selected:,}", percent(not_selected / everything))
    return table


def _rules_in_short(by_rule: Sequence[tuple[str, int]], everything: int) -> Iterator[RenderableType]:
    table = _table("rule", "records", "%")
    for words, n in by_rule:
        if n:
            table.add_row(clean(words), f"{n:,}", percent(n / everything))
    if table.row_count:
        yield table
    yield from _idle([words for words, n in by_rule if not n])


def _idle(rules: Sequence[str]) -> Iterator[Text]:
    """The rules that no record fails, if any."""
    if rules:
        yield Text(f"no record fails: {', '.join(map(visible, rules))}", style="dim")


def _rules(rules: Sequence[Mapping[str, Any]], *, numbered: bool) -> Table:
    unknown = any(rule["unknown"] for rule in rules)
    table = Table(box=None, header_style="bold", pad_edge=False)
    if numbered:
        table.add_column("#", justify="right", style="cyan", no_wrap=True)
    table.add_column("rule", overflow="fold")
    for name in ("records", "%", "only this rule", *(["no score"] if unknown else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for i, rule in enumerate(rules, 1):
        words = Text(visible(rule["words"]))
        if rule["because"]:
            words.append(f"\n{visible(rule['because'])}", style="dim")
        cells = [f"{rule['n']:,}", percent(rule["share"]), f"{rule['only']:,}"]
        cells += [f"{rule['unknown']:,}"] if unknown else []
        table.add_row(*([str(i)] if numbered else ()), words, *cells)
    return table


def _overlaps(
    rules: Sequence[Mapping[str, Any]],
    both: Sequence[Sequence[int]],
    pairs: Sequence[tuple[int, int, int]],
) -> Table:
    """How many records fail two rules: a triangle, or the largest pairs where it would be too wide."""
    involved = sorted({k for _, i, j in pairs for k in (i, j)})
    if len(involved) > MOST_IN_TRIANGLE:
        table = _table("records that fail both", "n")
        for n, i, j in sorted(pairs, key=lambda pair: -pair[0])[:MOST_IN_TRIANGLE]:
            table.add_row(clean(f"{rules[i]['words']} and {rules[j]['words']}"), f"{n:,}")
        return table
    table = _table("records that fail both", *(f"#{i + 1}" for i in involved[:-1]))
    for j in involved[1:]:
        table.add_row(f"#{j + 1}", *(f"{both[i][j]:,}" if i < j else "" for i in involved[:-1]))
    return table


def _groups(groups: Mapping[str, Any]) -> Table:
    table = _table(clean(groups["column"]), "n", "kept", "% kept")
    table.add_column("", no_wrap=True)
    lines = [(group["name"] or "none", group) for group in groups["largest"]]
    if groups["rest"]:
        lines.append((f"{groups['n_rest']:,} others", groups["rest"]))
    for name, group in lines:
        full = round(BAR * group["share"])
        bar = Text("█" * full, style="green").append("░" * (BAR - full), style="dim")
        table.add_row(
            clean(cut(name, LONGEST_NAME)),
            f"{group['n']:,}",
            f"{group['kept']:,}",
            percent(group["share"]),
            bar,
        )
    return table


@dataclass(frozen=True, slots=True)
class Principles:
    """How each metric moves: over the input, what is kept, and a random draw of the same size. Intervals are left out
    where there is no room for them."""

    moved: Sequence[Mapping[str, Any]]
    drawn_from: str
    own: frozenset[str] = frozenset()
    """Metrics that a rule goes by, which move by definition."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        some, every = (options.max_width >= room for room in ROOM_FOR_INTERVALS)
        wide = {"input": every, "kept": some, "random": some}
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("metric", no_wrap=True)
        for name, with_interval in wide.items():
            table.add_column(name, justify="right", no_wrap=True)
            if with_interval:
                table.add_column("95% interval", justify="right", no_wrap=True, style="dim")
        table.add_column("kept against random", overflow="fold")
        apart: dict[str, list[str]] = {}
        for metric in self.moved:
            missing = next((metric[name]["reason"] for name in wide if metric[name]["value"] is None), None)
            if missing is not None:
                reason = "without a value" if metric["input"]["value"] is None else f"not compared, {missing}"
                apart.setdefault(visible(reason), []).append(visible(metric["name"]))
                continue
            cells = []
            for name, with_interval in wide.items():
                cells.append(number(metric[name]["value"]))
                cells += [interval(metric[name]["interval"])] if with_interval else []
            table.add_row(clean(metric["name"]), *cells, _verdict(metric, own=metric["name"] in self.own))
        yield table
        for reason, names in apart.items():
            yield Text(f"{reason}: {', '.join(names)}", style="dim")
        yield Text(
            f"random: as many records drawn from {self.drawn_from}. What differs there too is the work of the smaller "
            "size, not of the filter.",
            style="dim",
        )


def _verdict(metric: Mapping[str, Any], *, own: bool) -> Text:
    kept, drawn = metric["kept"], metric["random"]
    if metric["beyond"] is None:
        return Text("without an interval", style="dim")
    if not metric["beyond"]:
        return Text("within noise", style="dim")
    up = kept["value"] > drawn["value"]
    better = metric["higher_is_better"]
    style = "bold" if better is None else "bold green" if up == better else "bold red"
    word = "moved" if better is None else "better" if up == better else "worse"
    told = Text(f"{'↑' if up else '↓'} {word}", style=style)
    return told.append(", by its own rule" if own else "", style="dim not bold default")


def _closest(calls: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Table:
    """The records nearest to each threshold; ``at`` is said where a threshold differs between records.

    Of a rule with several comparisons each says which it is.
    """
    comparisons = Counter(call["words"] for call in calls)
    begun = set()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("closest calls", "just below", "at or just above"):
        table.add_column(name, overflow="fold")
    for call in calls:
        words, near = call["words"], [*call["below"], *call["above"]]
        if not near:
            continue
        several = len({one["threshold"] for one in near}) > 1
        lines = [] if words in begun else [Text(visible(names.get(words, words)))]
        begun.add(words)
        if comparisons[words] > 1 or not (lines and visible(call["column"]) in lines[0].plain):
            at = "" if several else f" at {near[0]['threshold']:.6g}"
            lines.append(Text(f"{visible(call['column'])}{at}", style="dim"))
        title = Text("\n").join(lines)
        sides = [
            Text("\n").join(
                Text(f"{one['value']:<8.6g}", style="bold")
                .append(f" (at {one['threshold']:.6g})" if several else "", style="dim not bold")
                .append(f"  {cut(visible(one['id']), LONGEST_NAME)}", style="not bold")
                for one in call[side]
            )
            for side in ("below", "above")
        ]
        table.add_row(title, *sides)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
