"""Fetching what a profile needs. The one place that opens a socket for weights, and only when asked to."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress

from vlitqc.errors import ModelUnavailable
from vlitqc.models import weights
from vlitqc.profiles import ModelFile

CHUNK = 2**20
TIMEOUT = 30.0

Told = Callable[[int, int | None], None]
"""Called with the bytes fetched so far and in all, where the server says how many."""


def pull(file: ModelFile, told: Told) -> None:
    """Fetch a hub file into the Hugging Face cache, or a URL's into vlitqc's; nothing else can be fetched.

    Raises ModelUnavailable with the cause and the cure: offline mode, a gated repository, a network that does
    not answer, a package to install, a file that only a person can get, bytes that are not the ones named.
    """
    if file.hub is None and file.url is None:
        weights.checked(file)  # says how a package is installed, or where a file of one's own is to be had
        return
    if offline():
        raise ModelUnavailable(
            f"{file.source} is not fetched in offline mode; unset HF_HUB_OFFLINE, or copy the cache of a "
            "machine that has it"
        )
    if file.hub is not None:
        _from_hub(file)
    else:
        _from_url(file, told)
    weights.verify(file)


def offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE`` forbids the network."""
    return any(
        os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _from_hub(file: ModelFile) -> None:
    import httpx
    from huggingface_hub import errors, snapshot_download

    assert file.hub is not None
    try:
        # Shows its own progress, a line for each file.
        wanted = [file.path] if file.path else list(file.patterns)
        snapshot_download(file.hub, revision=file.revision, allow_patterns=wanted)
    except errors.GatedRepoError:
        raise ModelUnavailable(
            f"{file.source} is gated: accept its licence at https://huggingface.co/{file.hub}, then run: "
            "hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelUnavailable(f"{file.hub} has no revision '{file.revision}'; correct the profile") from None
    except errors.RepositoryNotFoundError:
        raise ModelUnavailable(
            f"{file.source} does not exist, or is private: correct the profile, or run: hf auth login"
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise ModelUnavailable(
            f"{file.source} could not be fetched ({type(error).__name__}: {_first_line(error)}); "
            "check the network and run the command again, it goes on where it stopped"
        ) from error


def _from_url(file: ModelFile, told: Told) -> None:
    assert file.url is not None
    target = weights.fetched(file)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelUnavailable(
            f"{target.parent} cannot be made ({error.strerror}); set VLITQC_CACHE to a folder that can"
        ) from error
    try:
        # The profile's check lets https alone through.
        with urllib.request.urlopen(file.url, timeout=TIMEOUT) as answer, fresh.open("wb") as out:  # noqa: S310
            if answer.url != file.url and not answer.url.startswith("https://"):
                raise OSError(f"it redirects to {answer.url}, which is not https")
            length = answer.headers.get("Content-Length")
            total, done = int(length) if length else None, 0
            while block := answer.read(CHUNK):
                out.write(block)
                digest.update(block)
                done += len(block)
                told(done, total)
        if total is not None and done != total:
            raise OSError(f"the connection ended after {done:,} of {total:,} bytes")
        if file.sha256 and digest.hexdigest() != file.sha256:
            raise ModelUnavailable(
                f"{file.url} holds sha256 {digest.hexdigest()[:16]}…, the profile names "
                f"{file.sha256[:16]}…: it was not kept"
            )
        fresh.replace(target)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise ModelUnavailable(
            f"{file.url} could not be fetched ({type(error).__name__}: {_first_line(error)}); "
            "check the network and run the command again"
        ) from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
