"""``vlitqc compare``: data sets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from vlitqc.cli.options import EXIT_CODES, PATH, RUN
from vlitqc.cli.streams import print_json, terminal
from vlitqc.errors import UsageError


@click.command(epilog=EXIT_CODES)
@click.argument("sets", nargs=-1, type=RUN, metavar="A [B...]")
@click.option("--filtered", is_flag=True, help="After each run also what its latest filter kept.")
@click.option(
    "--mix-profiles",
    is_flag=True,
    help="Show values of different profiles, versions or models side by side, without differences.",
)
@click.option(
    "--replicates",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Random parts of each data set for the metrics at equal size; 0 leaves them out.",
)
@click.option(
    "--size",
    type=click.IntRange(min=1),
    metavar="M",
    help="The equal size, in records that a metric scored. [the smallest data set's, at most 50,000]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random parts.")
@click.option("--out", type=PATH, metavar="PAGE", help="Write a page with the distributions, too: FILE.html.")
@click.option("--markdown", is_flag=True, help="Print Markdown for the card of a data set.")
@click.option("--json", is_flag=True, help="Print as JSON.")
def compare(
    sets: Sequence[Path | str],
    filtered: bool,
    mix_profiles: bool,
    replicates: int,
    size: int | None,
    seed: int,
    out: Path | None,
    markdown: bool,
    json: bool,
) -> None:
    """Hold data sets against the first one: the paper's table, differences, diversity at equal size.

    A data set is a run directory, its URL, an input that was scored, or an output of a filter: data.filter.json and
    data.kept.jsonl are the kept part of the run that was filtered, data.dropped.jsonl is the dropped one. Nothing is
    scored again.

    A difference has a 95% interval and is clear where that excludes 0. A part is held against its run by what random
    parts of as many records show. More records have more clusters and tasks whatever they are, so the metrics of
    whole data sets are compared at equal size, as means over random parts.

    \b
    Examples:
      vlitqc compare data.vlitqc other.vlitqc
      vlitqc compare data.vlitqc --filtered                    before and after the latest filter
      vlitqc compare data.vlitqc data.filter.json --out page.html
      vlitqc compare mine.vlitqc theirs.vlitqc --mix-profiles
    """
    from vlitqc import console
    from vlitqc.comparison.compare import compare as compared

    if json and markdown:
        raise UsageError("--json and --markdown exclude each other; run the command twice")
    if out is not None and out.suffix not in (".html", ".htm"):
        raise UsageError(f"--out {out}: expected a page, FILE.html")
    with console.parts_drawn(terminal(stderr=True)) as progress:
        found = compared(
            *sets,
            filtered=filtered,
            mix_profiles=mix_profiles,
            replicates=replicates,
            size=size,
            seed=seed,
            progress=progress,
        )
    if json:
        print_json(found.as_json())
    elif markdown:
        click.echo(found.markdown(), nl=False)
    else:
        terminal().print(console.comparison(found.as_json()))
    if out is not None:
        page = console.visible(found.write(out))
        if not (json or markdown):
            click.echo(f"\npage    {page}")
