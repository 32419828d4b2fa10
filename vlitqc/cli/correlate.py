"""``vlitqc correlate``: metrics of data sets with benchmarks of models trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from vlitqc.cli.options import EXIT_CODES, LINES, PATH, RUN
from vlitqc.cli.streams import print_json, terminal
from vlitqc.errors import UsageError


@click.command(epilog=EXIT_CODES)
@click.argument("sets", nargs=-1, type=RUN, metavar="RUN RUN...")
@click.option(
    "--benchmarks",
    type=PATH,
    required=True,
    metavar="CSV",
    help="First column: data sets by name; every other: a benchmark.",
)
@click.option(
    "--names",
    type=LINES,
    multiple=True,
    metavar="RUN=NAME",
    help="What a run is called in the CSV; may be repeated. [the run's name without .vlitqc]",
)
@click.option(
    "--replicates",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Random parts of each data set where sizes differ; 0 takes values as they are.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random parts.")
@click.option("--json", is_flag=True, help="Print as JSON.")
def correlate(
    sets: Sequence[Path | str],
    benchmarks: Path,
    names: Sequence[str],
    replicates: int,
    seed: int,
    json: bool,
) -> None:
    """Correlate the metrics of data sets with benchmarks of the models that were trained on them.

    Each data set is one point. Pearson's r and Spearman's rho come with 95% intervals, two-sided p (exact for rho up to
    nine data sets) and q, which is p after Benjamini and Hochberg's correction for all pairs. What so few data sets can
    show at all is said below the table. Nothing is scored again.

    A data set is named as for 'vlitqc compare'. A metric of a whole data set, such as a number of clusters, is taken at
    equal size where sizes differ by more than 5%.

    \b
    The CSV:
      data,overall,text recognition
      llava,28.0,18.2
      mimic-it,26.3,

    \b
    Examples:
      vlitqc correlate *.vlitqc --benchmarks seed_bench.csv
      vlitqc correlate a.vlitqc b.vlitqc c.vlitqc d.vlitqc --benchmarks scores.csv --names a.vlitqc=LLaVA
      vlitqc correlate *.vlitqc --benchmarks seed_bench.csv --json > correlations.json
    """
    from vlitqc import console
    from vlitqc.comparison.benchmarks import correlate as correlated

    with console.parts_drawn(terminal(stderr=True)) as progress:
        found = correlated(
            *sets,
            benchmarks=benchmarks,
            names=_names(names),
            replicates=replicates,
            seed=seed,
            progress=progress,
        )
    if json:
        print_json(found.as_json())
    else:
        terminal().print(console.correlations(found.as_json()))


def _names(pairs: Sequence[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for pair in pairs:
        # A path may hold "=", and so may a name: what follows the last one is the name.
        run, equals, name = pair.rpartition("=")
        if not (equals and run.strip() and name.strip()):
            raise UsageError(f"--names {pair}: expected RUN=NAME, such as a.vlitqc=LLaVA")
        if run in names:
            raise UsageError(f"--names gives {run} two names: {names[run]} and {name}; give it one")
        names[run] = name
    return names
