"""``vlitqc metrics`` and ``vlitqc models``: what there is to measure, and by which model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from vlitqc.cli.streams import print_json, terminal


@click.command()
@click.argument("name", required=False)
@click.option(
    "--profile", default="lite", show_default=True, metavar="NAME|FILE", help="Which model each metric uses."
)
@click.option("--json", is_flag=True, help="Print as JSON.")
def metrics(name: str | None, profile: str, json: bool) -> None:
    """List the metrics, or show the card of one: what it is, costs, sees and misses.

    \b
    Examples:
      vlitqc metrics
      vlitqc metrics matching_degree
    """
    from vlitqc import cards, console, profiles, registry

    chosen = profiles.load(profile)
    if name is not None:
        card = cards.load(name)
        if json:
            print_json(card.as_json(chosen))
        else:
            terminal().print(console.rows(["", name], card.short(chosen)))
        return
    lines = [
        (entry.principle.label, entry.name, profiles.served_by(chosen, entry.name), entry.owner)
        for entry in registry.entries(registry.METRICS).values()
    ]
    if json:
        keys = ("principle", "name", "served_by", "package")
        print_json([dict(zip(keys, line, strict=True)) for line in lines])
    else:
        header = ["principle", "metric", f"in profile {console.clean(chosen.name)}", "package"]
        terminal().print(console.rows(header, lines))


@click.group()
def models() -> None:
    """List, fetch and verify the models of a profile."""


_PROFILE = click.option(
    "--profile", default="lite", show_default=True, metavar="NAME|FILE", help="Whose models."
)


@models.command(name="list")
@_PROFILE
@click.option("--json", is_flag=True, help="Print as JSON.")
def models_list(profile: str, json: bool) -> None:
    """Every model of a profile: its licence, its size, where it comes from and whether it is here.

    Opens no socket.

    \b
    Examples:
      vlitqc models list --profile paper
    """
    from vlitqc import console, profiles
    from vlitqc.models.store import ModelStore

    store = ModelStore(profiles.load(profile))
    header = ["slot", "model", "licence", "size", "from", "here"]
    table = []
    lines: list[dict[str, Any]] = []
    for slot, entry in store.profile.models.items():
        states = store.located(slot)
        size = store.size(slot)
        below = [s for used in sorted(store.uses(slot)) for s in store.located(used)]
        source = ", ".join(dict.fromkeys(s.file.source for s in states)) or "built on others"
        missing = next((s.fault for s in (*states, *below) if s.fault), None)
        cached = [str(s.path) for s in states if s.path]
        table.append(
            (slot, entry.name, entry.licence, console.size(size), source, "no" if missing else "yes")
        )
        lines.append(
            {"slot": slot, "model": entry.name, "licence": entry.licence, "bytes": size, "source": source}
            | {"cached": cached, "missing": missing}
        )
    if json:
        print_json(lines)
        return
    out = terminal()
    out.print(console.rows(header, table))
    for line in lines:
        if line["missing"] and line["source"] != "built on others":
            out.print(f"\n{console.clean(line['slot'])}: {console.clean(line['missing'])}", soft_wrap=True)


@models.command(name="pull")
@_PROFILE
@click.argument("slots", nargs=-1)
def models_pull(profile: str, slots: Sequence[str]) -> None:
    """Fetch what a profile's models need, or only the SLOTS named; exit 3 if something is still missing.

    Hub files go to the Hugging Face cache (HF_HOME), others to VLITQC_CACHE. Packages are not installed and
    files behind a form are not fetched: it says how to get them. Nothing else in vlitqc ever fetches weights.

    \b
    Examples:
      vlitqc models pull --profile paper
      vlitqc models pull --profile paper clip maniqa
    """
    from vlitqc import console, profiles
    from vlitqc.errors import ModelUnavailable, UnknownName
    from vlitqc.models.pull import pull
    from vlitqc.models.store import ModelStore

    store = ModelStore(profiles.load(profile))
    for slot in slots:
        if slot not in store.profile.models:
            raise UnknownName("model slot", slot, store.profile.models)
    out = terminal()
    missing = 0
    for slot in slots or store.profile.models:
        for file in store.files(slot):
            label = f"{console.clean(slot)}: {console.clean(file.source)}"
            try:
                with console.download(terminal(stderr=True), console.clean(slot)) as told:
                    pull(file, told)
                out.print(f"{label}  [green]here[/green]", soft_wrap=True)
            except ModelUnavailable as error:
                missing += 1
                out.print(f"{label}  [red]missing[/red]\n    {console.clean(error)}", soft_wrap=True)
    if missing:
        raise ModelUnavailable(f"{missing} files are still missing; the metrics that need them will be null")


@models.command(name="verify")
@_PROFILE
def models_verify(profile: str) -> None:
    """Read every file of a profile and compare it with the sha256 named; exit 3 if one is missing or differs.

    A file whose sha256 the profile does not name is shown with the one it has, to be copied into the profile.
    """
    from vlitqc import console, profiles
    from vlitqc.errors import ModelUnavailable
    from vlitqc.models.store import ModelStore

    store = ModelStore(profiles.load(profile))
    found = [(slot, s) for slot in store.profile.models for s in store.verify(slot)]
    lines = [
        (
            slot,
            s.file.path or s.file.source,
            s.sha256 or s.file.sha256 or "",
            s.fault or ("as named" if s.file.sha256 else "not named by the profile"),
        )
        for slot, s in found
    ]
    terminal().print(console.rows(["slot", "file", "sha256", "found"], lines))
    wrong = sum(s.fault is not None for _, s in found)
    if wrong:
        raise ModelUnavailable(f"{wrong} of {len(found)} files are missing or not the ones named")
