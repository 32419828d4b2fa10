"""Models by slot: found, checked against the profile's sha256, built once a process, loaded on first use."""

from __future__ import annotations

import hashlib
import inspect
import json
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from vlitqc.errors import ModelUnavailable, UsageError
from vlitqc.profiles import ModelEntry, ModelFile, Profile
from vlitqc.registry import MODELS, find
from vlitqc.types import ModelRef


def sha256_of(path: Path) -> str:
    """Of a file: over its bytes. Of a folder: over the sorted lines ``relative path\\0sha256`` of its files."""
    if path.is_dir():
        files = sorted(
            p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.relative_to(path).parts
        )
        listing = "".join(f"{p.relative_to(path).as_posix()}\0{sha256_of(p)}\n" for p in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locate(file: ModelFile) -> Path:
    """Where a model file is; raises ModelUnavailable with the command that gets it."""
    if file.package is None:
        path = Path(file.path).expanduser()
        if not path.exists():
            raise ModelUnavailable(f"model file {path} does not exist; correct the path in the profile")
        return path
    wanted = f"{file.package}=={file.version}"
    try:
        package = metadata.distribution(file.package)
    except metadata.PackageNotFoundError:
        raise ModelUnavailable(f"package {wanted} is not installed; run: pip install {wanted}") from None
    if package.version != file.version:
        raise ModelUnavailable(
            f"package {file.package} is {package.version}, the profile names {file.version}; "
            f"run: pip install {wanted}"
        )
    path = Path(str(package.locate_file(file.path)))
    if not path.exists():
        raise ModelUnavailable(
            f"{file.path} is missing from package {wanted}; run: pip install --force-reinstall {wanted}"
        )
    return path


@cache
def _checked(file: ModelFile) -> Path:
    path = locate(file)
    found = sha256_of(path)
    if found != file.sha256:
        cure = (
            f"pip install --force-reinstall {file.package}=={file.version}" if file.package else "replace it"
        )
        raise ModelUnavailable(
            f"{path} has sha256 {found[:16]}…, the profile names {file.sha256[:16]}…; {cure}"
        )
    return path


class ModelStore:
    """The models of one profile in one process."""

    def __init__(self, profile: Profile, *, device: str = "auto") -> None:
        self.profile = profile
        self.device = device
        self._built: dict[str, Any] = {}

    def ref(self, slot: str) -> ModelRef:
        """What the slot holds, exactly: its hash covers files, options and the models that it uses."""
        entry = self._entry(slot)
        digest = hashlib.sha256()
        for file in entry.files:
            digest.update(f"{file.role}={file.sha256}\n".encode())
        digest.update(json.dumps([entry.backend, dict(entry.options)], sort_keys=True).encode())
        for role, used in sorted(entry.uses.items()):
            digest.update(f"{role}={self.ref(used).sha256}\n".encode())
        revision = "+".join(dict.fromkeys(f.version or "local" for f in entry.files)) or "built-in"
        return ModelRef(entry.kind, entry.name, revision, digest.hexdigest())

    def get(self, slot: str) -> Any:
        """The model, built but not loaded. Raises ModelUnavailable where a file is missing or not the named one."""
        if slot not in self._built:
            entry = self._entry(slot)
            files = {file.role: _checked(file) for file in entry.files}
            used = {role: self.get(name) for role, name in entry.uses.items()}
            backend = find(MODELS, entry.backend).load()
            options = dict(entry.options)
            if "device" in inspect.signature(backend).parameters:
                options["device"] = self.device
            try:
                self._built[slot] = backend(self.ref(slot), files, **used, **options)
            except TypeError as error:
                raise UsageError(f"profile {self.profile.name}: models.{slot}: {error}") from error
        return self._built[slot]

    def verify(self, slot: str) -> list[tuple[ModelFile, Path | None, str | None]]:
        """Each file of a slot with its path and what is wrong with it (None: nothing)."""
        rows: list[tuple[ModelFile, Path | None, str | None]] = []
        for file in self._entry(slot).files:
            try:
                rows.append((file, _checked(file), None))
            except ModelUnavailable as error:
                rows.append((file, None, str(error)))
        return rows

    def _entry(self, slot: str) -> ModelEntry:
        return self.profile.models[slot]
