"""``vlitqc check``: gates on a run, for continuous integration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from vlitqc.cli.options import EXIT_CODES, LINES, PATH, RUN, open_run
from vlitqc.cli.streams import print_json, terminal
from vlitqc.errors import VlitqcError


class _Failed(VlitqcError):
    exit_code = 1


@click.command(epilog=EXIT_CODES)
@click.argument("run", nargs=-1, type=RUN, metavar="[RUN|PATH...]")
@click.option(
    "--require",
    multiple=True,
    type=LINES,
    metavar="'NAME >= V'",
    help="What must hold: a comparison of a number of the run with a number; may be repeated.",
)
@click.option(
    "--require-file", multiple=True, type=PATH, metavar="FILE", help="A TOML file of requirements; likewise."
)
@click.option("--junit", type=PATH, metavar="FILE", help="Write the result as JUnit XML, too.")
@click.option("--json", is_flag=True, help="Print as JSON.")
def check(
    run: Sequence[Path],
    require: Sequence[str],
    require_file: Sequence[Path],
    junit: Path | None,
    json: bool,
) -> None:
    """Hold a run against requirements; exit 1 if one is not met.

    RUN is a run directory or the paths that were scored; by default the latest run in this folder. A metric without
    a value meets no requirement. Nothing is scored again.

    \b
    What can be asked for:
      matching_degree.mean >= 25         also .p5 .p25 .p50 .p75 .p95, .low and .high (95% interval)
      task_diversity.value >= 9          the one value of a data-set metric; its .parts and .details
      image_readability.scored >= 95%    share of records with a score; .n_scored
      issues.unreadable_image == 0       records with an issue of this kind; issues.errors
      records >= 10000                   counts.partial, counts.unreadable; verdict.share < 2%

    \b
    Examples:
      vlitqc check data.vlitqc --require "matching_degree.mean >= 25" --require "issues.errors == 0"
      vlitqc check --require-file gates.toml --junit gates.xml
    """
    from vlitqc import console, gates

    asked: list[str | gates.Requirement] = [*require]
    for path in require_file:
        asked += gates.read_file(path)
    opened = open_run(run)
    found = gates.check(opened, asked)
    if junit is not None:
        gates.write_junit(junit, found, opened)
    failed = sum(not gate.passed for gate in found)
    lines = [
        {
            "requirement": gate.requirement,
            "passed": gate.passed,
            "actual": gate.actual,
            "reason": gate.reason,
            "because": gate.because,
        }
        for gate in found
    ]
    if json:
        print_json({"passed": not failed, "gates": lines})
    else:
        terminal().print(console.gates(lines))
    if failed:
        of = f"{failed} of {len(found)} requirements" if len(found) > 1 else "the requirement"
        raise _Failed(f"{of} failed")
