"""The words and sentences that corruptions put in, from ``texts.toml``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("texts.toml")


@dataclass(frozen=True, slots=True)
class Relation:
    """A phrase of place and what is put in its place."""

    pattern: re.Pattern[str]
    opposite: str


@dataclass(frozen=True, slots=True)
class Noun:
    """What a noun names: its class, the thing (by its first name, in the noun's own number), and that number."""

    kind: str
    thing: str
    plural: bool


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Everything in the file; words in lower case.

    ``nouns`` has every form that the file names; ``of_class`` the first name of each thing of a class, singular
    or plural.
    """

    keyboard: tuple[str, ...]
    boilerplate: tuple[str, ...]
    openers: tuple[str, ...]
    simple_with_picture: str
    simple_without_picture: str
    languages: Mapping[str, tuple[str, ...]]
    colours: tuple[str, ...]
    numbers: tuple[str, ...]
    relations: tuple[Relation, ...]
    nouns: Mapping[str, Noun]
    of_class: Mapping[tuple[str, bool], tuple[str, ...]]


@cache
def vocabulary() -> Vocabulary:
    """The file, read once."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    nouns: dict[str, Noun] = {}
    of_class: dict[tuple[str, bool], tuple[str, ...]] = {}
    for kind, things in table["nouns"].items():
        forms = [[_forms(name) for name in thing.split("=")] for thing in things]
        # Singulars last: a noun that is its own plural ("sheep") counts as one.
        for plural in (True, False):
            of_class[kind, plural] = tuple(names[0][plural] for names in forms)
            nouns |= {name[plural]: Noun(kind, names[0][plural], plural) for names in forms for name in names}
    relations = tuple(
        Relation(re.compile(rf"\b{entry['pattern']}\b", re.IGNORECASE), entry["opposite"])
        for entry in table["relations"]
    )
    return Vocabulary(
        keyboard=tuple(table["keyboard"]),
        boilerplate=tuple(table["boilerplate"]),
        openers=tuple(table["openers"]),
        simple_with_picture=table["simple"]["with_picture"],
        simple_without_picture=table["simple"]["without_picture"],
        languages={name: tuple(told) for name, told in table["languages"].items()},
        colours=tuple(table["colours"]),
        numbers=tuple(table["numbers"]),
        relations=relations,
        nouns=nouns,
        of_class=of_class,
    )


def _forms(name: str) -> tuple[str, str]:
    """Singular and plural of ``bus/buses`` or of a regular noun."""
    singular, _, plural = name.partition("/")
    return singular, plural or f"{singular}s"
