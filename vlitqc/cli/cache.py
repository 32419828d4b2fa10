"""``vlitqc cache``: what runs remember of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vlitqc.cli.streams import print_json, terminal

if TYPE_CHECKING:
    from vlitqc.models.feature_cache import FeatureCache


@click.group(invoke_without_command=True)
@click.option("--json", is_flag=True, help="Print as JSON.")
@click.pass_context
def cache(context: click.Context, json: bool) -> None:
    """Show the cache of features, or clear it.

    What models say of a text or a picture is kept by its content and the exact model, and so are the thumbnails of
    pages: scoring the data again, or with records added, computes only what is new. It lies in VLITQC_CACHE
    (~/.cache/vlitqc) and takes at most VLITQC_CACHE_SIZE (10GiB; 0 turns it off); what was not used for the longest
    time goes first. A run without it: vlitqc score --no-cache.

    Beside it, in runs, are the copies of runs at URLs. They may be deleted while nothing runs: what is wanted comes
    again from the URL.

    \b
    Examples:
      vlitqc cache
      vlitqc cache clear
    """
    if context.invoked_subcommand is not None:
        return
    from vlitqc import console

    found = _cache()
    state = found.state()
    if json:
        told = {"file": str(found.path), "values": state.entries, "bytes": state.used}
        print_json(told | {"file_bytes": state.file, "limit": found.limit})
        return
    limit = console.size(found.limit) if found.limit else "0: the cache is off"
    rows = [
        ("values", f"{state.entries:,}"),
        ("size", console.size(state.used)),
        ("on disk", console.size(state.file)),
        ("limit", limit),
    ]
    terminal().print(console.rows(["file", console.clean(found.path)], rows))


@cache.command()
def clear() -> None:
    """Forget every value of the cache of features.

    The answers of judges, which cost time or money, and fetched weights lie beside it and stay.
    """
    from vlitqc import console

    found = _cache()
    before = found.clear()
    terminal().print(
        f"cleared {console.clean(found.path)}: {before.entries:,} values, {console.size(before.file)}",
        soft_wrap=True,
    )


def _cache() -> FeatureCache:
    from vlitqc.models.cache import cache_folder
    from vlitqc.models.feature_cache import FILE_NAME, FeatureCache, size_limit

    return FeatureCache(cache_folder() / FILE_NAME, versions={}, limit=size_limit())
