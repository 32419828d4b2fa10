"""The command line: parse, call, print. What it prints is made in ``console``; what it calls is the Python API."""

from __future__ import annotations

import codecs
import io
import sys
import traceback

import click

from vlitqc.cli import cache, check, compare, correlate, filter, inspect, models, report, score, validate
from vlitqc.cli.options import EXIT_CODES
from vlitqc.cli.streams import in_plain, terminal
from vlitqc.errors import InputError, VlitqcError


class _InOrder(click.Group):
    """Lists its commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "VLITQC",
        "max_content_width": 110,
    },
    epilog=EXIT_CODES,
)
@click.version_option(package_name="vlitqc")
def cli() -> None:
    """Know your vision-language instruction data before you train on it.

    \b
    Examples:
      vlitqc inspect data.jsonl              what is in it, and every fault; no model
      vlitqc score data.jsonl                scorecard, table of scores, page
      vlitqc filter data.vlitqc --dry-run    what dropping the defects would do
      vlitqc explain data.vlitqc 000123      why a record was kept or dropped
      vlitqc check data.vlitqc --require "matching_degree.mean >= 25"
      vlitqc compare data.vlitqc b.vlitqc    side by side, and what differs
      vlitqc correlate *.vlitqc --benchmarks scores.csv
      vlitqc validate data.vlitqc            which metric notices which planted fault
      vlitqc metrics                         what is measured, and by which model

    Every option has a variable, as VLITQC_SCORE_PROFILE is that of 'vlitqc score --profile'. Where an option may
    be repeated, each line of its variable is a value; paths are separated by colons.
    """


for command in (
    inspect.inspect,
    score.score,
    report.report,
    filter.filter_,
    filter.recipes,
    filter.explain,
    check.check,
    validate.validate,
    compare.compare,
    correlate.correlate,
    models.metrics,
    models.models,
    cache.cache,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; an error of ours is a sentence and an exit code, never a traceback."""
    codecs.register_error("vlitqc.plain", in_plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="vlitqc.plain")
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        from vlitqc.console import visible

        told = io.StringIO()
        error.show(told)
        click.echo("\n".join(map(visible, told.getvalue().splitlines())), err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        again = "; the same command takes the run up again" if sys.argv[1:2] == ["score"] else ""
        click.echo(f"interrupted{again}", err=True)
        sys.exit(130)
    except VlitqcError as error:
        from vlitqc.console import clean

        terminal(stderr=True).print(f"[red]error:[/red] {clean(error)}", soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        from vlitqc.console import clean

        terminal(stderr=True).print(f"[red]error:[/red] {clean(error)}", soft_wrap=True)
        sys.exit(InputError.exit_code)
    except Exception:  # noqa: BLE001 - a defect of ours; its traceback may quote the data
        from vlitqc.console import visible

        click.echo("\n".join(map(visible, traceback.format_exc().splitlines())), err=True)
        sys.exit(1)
