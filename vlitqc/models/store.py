"""Models by slot: found, checked against the profile's sha256, built once a process, loaded on first use."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from vlitqc.errors import ModelUnavailable, UsageError
from vlitqc.models import weights
from vlitqc.models.roles import check_roles
from vlitqc.profiles import MetricEntry, ModelEntry, ModelFile, Profile, model_file
from vlitqc.registry import MODELS, find
from vlitqc.types import ModelRef


@dataclass(frozen=True, slots=True)
class FileState:
    """One file of a slot as it is here: ``sha256`` is what was found, ``fault`` what is wrong (None: nothing)."""

    file: ModelFile
    path: Path | None
    sha256: str | None
    fault: str | None


class Elsewhere(Protocol):
    """Models that other processes hold for this one."""

    @property
    def device(self) -> str:
        """Where they compute, as ``feature_cache.device_in_words`` says it there."""
        ...

    def stand_in(self, slot: str, backend: Any) -> Any:
        """What to build in the place of ``backend``: itself for a model that this process holds."""
        ...


class ModelStore:
    """The models of one profile in one process.

    ``device`` and ``judge_limit`` are handed to the backends that take a ``device`` or a ``limit``: they are
    of the run, not of the model. ``elsewhere`` are the models that other processes hold for this one.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        device: str = "auto",
        judge_limit: int | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.profile = profile
        self.elsewhere = elsewhere
        self.device, self.judge_limit = device, judge_limit
        self._of_run = {"device": device, "limit": judge_limit}
        self._built: dict[str, Any] = {}
        self._checked: dict[ModelFile, tuple[Path, str]] = {}

    def files(self, slot: str) -> tuple[ModelFile, ...]:
        """The files of a slot: those that the profile names, else those that its backend knows to need."""
        entry = self._entry(slot)
        if entry.files or entry.uses:
            return entry.files
        sources = getattr(self._backend(entry), "sources", None)
        if sources is None:
            return ()
        return tuple(model_file(body) for body in self._call(slot, sources, **entry.options))

    def ref(self, slot: str) -> ModelRef:
        """What the slot holds, exactly: its hash covers files, options and the models that it uses.

        It also covers the version of another package that brings the backend; that of vlitqc is asked for elsewhere.

        Left out are the options that a backend lists in ``RUNTIME_OPTIONS``: they change no number. A file
        that is missing and whose hash the profile does not name counts as empty.
        """
        entry = self._entry(slot)
        files = self.files(slot)
        found = {file: self._found(file) for file in files}
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.role}={file.sha256 or found[file][1]}\n".encode())
        runtime = getattr(self._backend(entry), "RUNTIME_OPTIONS", ())
        options = {key: value for key, value in entry.options.items() if key not in runtime}
        # A server's model has no file; its name is all that tells it from another.
        named = [entry.backend, options] if files or entry.uses else [entry.backend, options, entry.name]
        digest.update(json.dumps(named, sort_keys=True).encode())
        owner = find(MODELS, entry.backend).owner
        if owner != "vlitqc":
            digest.update(f"{owner}=={_version(owner)}\n".encode())
        for role, used in sorted(entry.uses.items()):
            digest.update(f"{role}={self.ref(used).sha256}\n".encode())
        revisions = (weights.revision(file, found[file][0]) for file in files)
        return ModelRef(
            entry.kind, entry.name, "+".join(dict.fromkeys(revisions)) or "built-in", digest.hexdigest()
        )

    def get(self, slot: str) -> Any:
        """The model, built but not loaded. Raises ModelUnavailable where a file is missing or not the named one."""
        if slot not in self._built:
            entry = self._entry(slot)
            try:
                files = {file.role: self._check(file)[0] for file in self.files(slot)}
            except ModelUnavailable as error:
                raise ModelUnavailable(self._with_profile(str(error))) from None
            used = {role: self.get(name) for role, name in entry.uses.items()}
            backend = self._backend(entry)
            roles = {role: (entry.uses[role], model) for role, model in used.items()}
            check_roles(backend, roles, f"profile {self.profile.name}: models.{slot}.uses")
            if self.elsewhere:
                backend = self.elsewhere.stand_in(slot, backend)
            known = inspect.signature(backend).parameters
            of_run = {key: value for key, value in self._of_run.items() if key in known}
            options = {**used, **entry.options, **of_run}
            self._built[slot] = self._call(slot, backend, self.ref(slot), files, **options)
        return self._built[slot]

    def slots(self, metric: MetricEntry) -> set[str]:
        """The slots that a metric's models take, with those that they use in turn."""
        return set(metric.models.values()).union(*map(self.uses, metric.models.values()))

    def uses(self, slot: str) -> set[str]:
        """The slots that a slot's model uses, and theirs in turn."""
        found: set[str] = set()
        open_slots = list(self._entry(slot).uses.values())
        while open_slots:
            slot = open_slots.pop()
            if slot not in found:
                found.add(slot)
                open_slots += self._entry(slot).uses.values()
        return found

    def on_device(self, metric: MetricEntry) -> set[str]:
        """Of the models that a metric asks, itself or through others, the slots of those that take a ``device``."""
        found: set[str] = set()
        open_slots = list(metric.models.values())
        while open_slots:
            slot = open_slots.pop()
            backend = self._backend(self._entry(slot))
            if isinstance(backend, type) and "device" in inspect.signature(backend).parameters:
                # What it uses itself, it uses where it is.
                found.add(slot)
            else:
                open_slots += self._entry(slot).uses.values()
        return found

    def usage(self) -> dict[str, Mapping[str, int]]:
        """What each judge built so far was asked, by slot."""
        return {
            slot: dict(model.usage) for slot, model in self._built.items() if getattr(model, "usage", None)
        }

    def located(self, slot: str) -> list[FileState]:
        """Each file of a slot as far as a look at the disk tells: none is read, ``sha256`` stays None."""
        return [self._state(file, lambda f: (weights.locate(f), None)) for file in self.files(slot)]

    def state(self, slot: str) -> list[FileState]:
        """Each file of a slot as it is here; large files that were hashed before are not read again."""
        return [self._state(file, self._check) for file in self.files(slot)]

    def verify(self, slot: str) -> list[FileState]:
        """As ``state``, but every byte is read."""
        return [self._state(file, weights.verify) for file in self.files(slot)]

    def size(self, slot: str) -> int | None:
        """Bytes of a slot's files: those that are here as they are, the others as the profile says; None: unknown."""
        states = self.located(slot)
        absent = [state.file.size for state in states if state.path is None]
        if None in absent or not states:
            return None
        here = {p for state in states if state.path for p in weights.members(state.path, state.file.patterns)}
        return sum(p.stat().st_size for p in here) + sum(size for size in absent if size)

    def _state(self, file: ModelFile, check: Any) -> FileState:
        try:
            path, sha256 = check(file)
            return FileState(file, path, sha256, None)
        except ModelUnavailable as error:
            return FileState(file, None, None, self._with_profile(str(error)))

    def _check(self, file: ModelFile) -> tuple[Path, str]:
        """A file is hashed once for a run, however many slots and metrics ask."""
        if file not in self._checked:
            self._checked[file] = weights.checked(file)
        return self._checked[file]

    def _found(self, file: ModelFile) -> tuple[Path | None, str]:
        try:
            return self._check(file)
        except ModelUnavailable:
            return None, ""

    def _with_profile(self, text: str) -> str:
        return text.replace(weights.PULL, f"{weights.PULL} --profile {self.profile.where}")

    def _call(self, slot: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except TypeError as error:
            raise UsageError(f"profile {self.profile.name}: models.{slot}: {error}") from error

    def _backend(self, entry: ModelEntry) -> Any:
        return find(MODELS, entry.backend).load()

    def _entry(self, slot: str) -> ModelEntry:
        return self.profile.models[slot]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
