"""``vlitqc report``: a run as a page, as a folder, on a local server, or in another form."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from vlitqc.cli.options import PATH, RUN, run_directory
from vlitqc.cli.streams import print_json
from vlitqc.errors import UsageError
from vlitqc.registry import REPORTS, SERVERS, find

if TYPE_CHECKING:
    from vlitqc.engine.run import Run

WAYS = ("pca", "umap", "none")
_DESKTOP = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
"""Variables of which one is set where a browser has a window; without, one in the terminal might be started."""


@click.command()
@click.argument("run", required=False, type=RUN)
@click.option(
    "--out", type=PATH, help="Where to write. [RUN/report.html, RUN/report, scorecard.md or samples.parquet]"
)
@click.option(
    "--form",
    default="html",
    show_default=True,
    metavar="NAME",
    help="html: the page; markdown: for a data set's card; parquet: one row a record, with text and coordinates; "
    "or what another package registers.",
)
@click.option(
    "--folder", is_flag=True, help="Pictures in files beside the page: more of them, read when seen."
)
@click.option(
    "--map",
    type=click.Choice(WAYS),
    default="pca",
    show_default=True,
    help="How embeddings become two coordinates; umap needs the package umap-learn.",
)
@click.option("--serve", is_flag=True, help="Serve the page on this machine: every record, however many.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Port of --serve. [a free one]")
@click.option("--no-open", is_flag=True, help="With --serve: open no browser.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of scorecard.json and stop.")
@click.pass_context
def report(
    context: click.Context,
    run: Path | str | None,
    out: Path | None,
    form: str,
    folder: bool,
    map: str,
    serve: bool,
    port: int | None,
    no_open: bool,
    schema: bool,
) -> None:
    """Write a run's review page, or the run in another form.

    RUN is a run directory, its URL, or the path that was scored; by default the latest run in this folder. What goes
    into a run at a URL is put there, and its copy on this machine is told.

    \b
    Examples:
      vlitqc report data.vlitqc                      data.vlitqc/report.html, one file of 10 MB at most
      vlitqc report data.vlitqc --folder             data.vlitqc/report/index.html, with more pictures beside it
      vlitqc report data.vlitqc --serve              the page with every record, until Ctrl-C
      vlitqc report data.vlitqc --form markdown      data.vlitqc/scorecard.md, for the data set's card
      vlitqc report data.vlitqc --form parquet --out samples.parquet
      vlitqc report --schema > scorecard.schema.json
    """
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)
    }
    if schema:
        _refuse(given - {"schema"}, "--schema", "it prints the same for every run")
        from vlitqc.engine import scorecard

        return print_json(scorecard.schema())
    from vlitqc.engine.inputs import gone_or_changed
    from vlitqc.engine.run import Run

    if serve:
        _refuse(given & {"out", "form", "folder"}, "--serve", "it writes nothing; leave out one of them")
        return _serve(Run.open(run_directory(run)), map, port, opens=not no_open)
    for_server = given & {"port", "no_open"}
    are, them = ("they are options", "them") if len(for_server) > 1 else ("it is an option", "it")
    _refuse(for_server, "", f"{are} of --serve; add that, or leave {them} out")
    options: dict[str, Any] = {}
    if folder:
        options["folder"] = True
    if "map" in given:
        options["projection"] = map
    _check(form, find(REPORTS, form).load(), options)
    from vlitqc import console

    opened = Run.open(run_directory(run))
    written = opened.report(out, form=form, **options)
    lost = gone_or_changed(opened.info["input"], opened.info["command"]) if form == "html" else None
    if lost is not None:
        click.echo(console.visible(f"some cards have no content: {lost}"), err=True)
    return click.echo(console.visible(written))


_FLAGS = {"folder": "--folder", "projection": "--map"}


def _refuse(given: set[str], beside: str, cure: str) -> None:
    """Raise UsageError where any of these parameters was given."""
    if given:
        named = (
            _FLAGS.get(name, "RUN" if name == "run" else f"--{name.replace('_', '-')}") for name in given
        )
        together = f" does not go with {beside}" if beside else ""
        raise UsageError(f"{', '.join(sorted(named))}{together}: {cure}")


def _check(form: str, write: Callable[..., Path], options: dict[str, Any]) -> None:
    """Raise UsageError for an option that this form does not take."""
    taken = inspect.signature(write).parameters
    for name in options:
        if name not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            raise UsageError(
                f"{_FLAGS[name]}: the form '{form}' does not take it; leave it out, or write another --form"
            )


def _serve(run: Run, projection: str, port: int | None, *, opens: bool) -> None:
    """Serve the page until Ctrl-C."""
    from vlitqc import console

    def ready(address: str) -> None:
        click.echo(f"{console.visible(run.place)} is served at\n{address}\nCtrl-C ends it")
        if opens and any(map(os.environ.get, _DESKTOP)):
            import webbrowser

            # Some browsers keep their caller until they are closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    click.echo("preparing the page", err=True)
    find(SERVERS, "page").load()(run, port=port or 0, projection=projection, ready=ready)
    click.echo("ended", err=True)
