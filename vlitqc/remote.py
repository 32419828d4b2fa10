"""Pictures and clips from the web, for those who asked for them, and never from inside the user's own network.

What data names is not trusted: a URL may lead to this machine, to its neighbours or to a cloud's metadata, at once,
through a redirect, or through a name that resolves differently the second time. So a host is resolved once, every
address that it has must be public, and the connection goes to that very address; TLS is checked against the name.
Redirects are followed here, each under the same rules. Only ``http`` and ``https`` are spoken, without names and
passwords in URLs, on the ports 80, 443 and 8000 to 8999. Proxies that the environment names are not used, for a
proxy would resolve the name once more.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpcore

from vlitqc.errors import RunError

MAX_REDIRECTS = 5
TRIES = 2
PAUSE_SECONDS = 1.0
SECONDS = 30.0
"""What one URL may take in all, redirects, body and second try included; looking up a name is not bounded by it."""
SILENCE_SECONDS = 10.0
"""How long a server may say nothing."""
CONNECTIONS = 16
CONNECTIONS_PER_HOST = 4
GIVE_UP = 5
"""After so many tries in a row without an answer a host is not asked again in the same gathering."""
PORTS = frozenset((80, 443, *range(8000, 9000)))
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Answers after which a second try may succeed."""

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_HEAD = 1024
_PORT = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?\.?")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NAT64 = ip_network("64:ff9b::/96")
_UNICAST = ip_network("2000::/3")
_NEVER = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # protocol assignments
            "192.88.99.0/24",  # relays of 6to4
            "168.63.129.16/32",  # the platform of Azure, from within it
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)

Resolve = Callable[..., Iterable[tuple[Any, ...]]]
"""What ``socket.getaddrinfo`` is."""


class RemoteFault(Exception):
    """Why a URL was not fetched. ``passing``: another try may succeed."""

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing


class _GivenUp(RemoteFault):
    """The host has not answered for several tries; it is not worth a second one now."""


class Remote:
    """Fetches URLs into ``folder``, each once: a file is named by the sha256 of its URL and never fetched again.

    ``allowed``: whether anything may be fetched; otherwise no socket is opened and only what is kept can be had.
    Failures are not kept, and neither is an empty answer or a page. Several threads may fetch at once.

    The other parameters are for tests: ``permitted`` are pairs of address and port beyond the public ones, and
    ``resolve`` stands for ``socket.getaddrinfo``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allowed: bool,
        seconds: float = SECONDS,
        pause: float = PAUSE_SECONDS,
        permitted: Collection[tuple[str, int]] = (),
        resolve: Resolve = socket.getaddrinfo,
    ) -> None:
        self.folder = folder
        self.allowed = allowed
        self.seconds = seconds
        self.pause = pause
        self.permitted = frozenset(permitted)
        self.resolve = resolve
        self._failed: dict[str, RemoteFault] = {}
        self._unanswered: Counter[str] = Counter()

    def gather(self, urls: Iterable[str], max_bytes: int) -> None:
        """Fetch many at once, ``CONNECTIONS_PER_HOST`` from one host. What fails is not tried again before the next
        call, nor is a host that has not answered ``GIVE_UP`` times in a row.
        """
        self._failed, self._unanswered = {}, Counter()
        queues: dict[str, deque[str]] = {}
        for url in dict.fromkeys(urls if self.allowed else ()):
            if not self.path(url).is_file():
                queues.setdefault(_host(url), deque()).append(url)
        pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch")
        try:
            # A thread stays with one host, so that a slow one holds up few of them; every host gets one first.
            lanes = [
                pool.submit(self._drain, queue, max_bytes)
                for lane in range(CONNECTIONS_PER_HOST)
                for queue in queues.values()
                if lane < len(queue)
            ]
            for future in lanes:
                future.result()
        finally:
            for queue in queues.values():
                queue.clear()  # an interruption ends the threads after the URL at hand
            pool.shutdown(cancel_futures=True)

    def fetch(self, url: str, max_bytes: int) -> Path:
        """The file with what ``url`` holds, fetched unless it is kept.

        Raises RemoteFault where it cannot be had, RunError where it cannot be written.
        """
        kept = self.path(url)
        if kept.is_file():
            return kept
        if not self.allowed:
            raise RemoteFault(not_fetched(url))
        self._settle(url, max_bytes)
        if url in self._failed:
            raise RemoteFault(str(self._failed[url]), passing=self._failed[url].passing)
        return kept

    def path(self, url: str) -> Path:
        """Where the content of ``url`` is kept."""
        return self.folder / hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()

    def cure(self, url: str) -> str:
        """What a fault adds where the content of ``url`` is kept and cannot be read; "" where it is not kept."""
        kept = self.path(url)
        name = f"{self.folder.name}/{kept.name}"
        return f"; delete {name} in the run to fetch it again" if kept.is_file() else ""

    def _drain(self, queue: deque[str], max_bytes: int) -> None:
        while True:
            try:
                url = queue.popleft()
            except IndexError:  # another thread took the last one
                return
            self._settle(url, max_bytes)

    def _settle(self, url: str, max_bytes: int) -> None:
        if url in self._failed:
            return
        try:
            self._try(_Place.parse(url), url, max_bytes)
        except RemoteFault as fault:
            self._failed[url] = fault

    def _try(self, place: _Place, url: str, max_bytes: int) -> None:
        deadline = time.monotonic() + self.seconds
        for left in reversed(range(TRIES)):
            try:
                self._follow(place, url, max_bytes, deadline)
                return
            except _GivenUp:
                raise
            except RemoteFault as fault:
                if not left or not fault.passing or time.monotonic() + self.pause >= deadline:
                    raise
            time.sleep(self.pause)

    def _follow(self, place: _Place, url: str, max_bytes: int, deadline: float) -> None:
        for _ in range(MAX_REDIRECTS + 1):
            target = self._get(place, url, max_bytes, deadline)
            if target is None:
                return
            place = place.towards(target)
        raise RemoteFault(f"{_short(url)} redirects more than {MAX_REDIRECTS} times")

    def _get(self, place: _Place, url: str, max_bytes: int, deadline: float) -> str | None:
        """Fetch one place into the file of ``url``; where it redirects, the target instead."""
        if self._unanswered[place.host] >= GIVE_UP:
            raise _GivenUp(
                f"{_short(url)} not fetched: {place.host} has not answered {GIVE_UP} times in a row",
                passing=True,
            )
        backend = _Guarded(self.resolve, self.permitted, deadline)
        headers = [
            ("Host", place.authority),
            ("User-Agent", "vlitqc"),
            ("Accept", "image/*, video/*, audio/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        where = httpcore.URL(scheme=place.scheme, host=place.host, port=place.port, target=place.target)
        try:
            with (
                httpcore.ConnectionPool(_tls(), network_backend=backend, max_connections=1) as pool,
                pool.stream("GET", where, headers=headers) as answer,
            ):
                told = {name.lower(): _text(value) for name, value in answer.headers}
                if answer.status != 200:
                    self._unanswered[place.host] = 0
                if answer.status in _REDIRECTS and b"location" in told:
                    return told[b"location"]
                if answer.status != 200:
                    raise RemoteFault(
                        f"{place.host} answers {answer.status} for {_short(url)}",
                        passing=answer.status in PASSING,
                    )
                packed = told.get(b"content-encoding", "identity").strip().lower()
                if packed not in ("identity", ""):
                    raise RemoteFault(f"{place.host} sends {_short(url)} packed ({packed[:20]}), unasked")
                size = told.get(b"content-length", "")
                if size.isdecimal() and int(size[:20]) > max_bytes:
                    raise RemoteFault(f"{_short(url)} has {size[:20]} bytes, over the limit of {max_bytes}")
                self._keep(url, answer.iter_stream(), max_bytes, told.get(b"content-type", "").lower())
                self._unanswered[place.host] = 0
        except httpcore.TimeoutException as error:
            self._unanswered[place.host] += 1
            over = time.monotonic() >= deadline
            told_time = f"within {self.seconds:g}" if over else f"for {SILENCE_SECONDS:g}"
            raise RemoteFault(
                f"{_short(url)} not {'fetched' if over else 'answered'} {told_time} seconds", passing=not over
            ) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            cause = next(iter(error.args), None)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise RemoteFault(f"{place.host} has no valid certificate: {cause.verify_message}") from error
            self._unanswered[place.host] += 1
            raise RemoteFault(f"{_short(url)} was not fetched: {error}", passing=True) from error
        return None

    def _keep(self, url: str, chunks: Iterable[bytes], max_bytes: int, kind: str) -> None:
        kept = self.path(url)
        draft = kept.with_name(f".{kept.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with draft.open("w+b") as file:
                    for chunk in chunks:
                        file.write(chunk)
                        if file.tell() > max_bytes:
                            raise RemoteFault(f"{_short(url)} has more bytes than the limit of {max_bytes}")
                    file.flush()
                    file.seek(0)
                    if held := _no_medium(file.read(_HEAD), kind):
                        raise RemoteFault(f"{_short(url)}: the server answered with {held}")
                    os.fsync(file.fileno())
                draft.replace(kept)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(
                f"{kept} cannot be written ({error.strerror}); make room, or pass --out DIR"
            ) from error


def not_fetched(url: str) -> str:
    """Why a URL is not fetched where nothing may be."""
    if url.partition("://")[0].lower() in _PORT:
        return f"{_short(url)} not fetched; --allow-remote fetches it"
    return f"{_short(url)} not fetched; only http and https URLs can be"


def sweep(folder: Path) -> None:
    """Delete what a killed run left half-fetched."""
    for draft in folder.glob(".*.part"):
        draft.unlink(missing_ok=True)


def is_public(address: str) -> bool:
    """Whether an IP address, by number, is one that the whole internet reaches.

    Mapped and translated (NAT64) forms of IPv4 count as the address in them; 6to4 and Teredo never pass.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        within = IPv4Address(ip.packed[12:]) if ip in _NAT64 else ip.ipv4_mapped
        if within is None and ip not in _UNICAST:
            return False
        ip = within or ip
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in _NEVER)


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL taken apart, once, in the only form that is sent."""

    scheme: str
    host: str
    port: int
    target: str
    url: str

    @classmethod
    def parse(cls, url: str) -> _Place:
        """Raises RemoteFault where nothing of that form is fetched."""
        if _UNSAFE.search(url) or "\\" in url.partition("?")[0]:
            raise RemoteFault(f"{_short(url)} holds characters that no URL has")
        try:
            parts = urlsplit(url.strip())
            port, host = parts.port, parts.hostname or ""
        except ValueError as error:
            raise RemoteFault(f"{_short(url)} is no valid URL: {error}") from error
        if parts.scheme not in _PORT:
            raise RemoteFault(f"{_short(url)} not fetched; only http and https URLs can be")
        if "@" in parts.netloc:
            raise RemoteFault("a URL with a user name or password in it is not fetched")
        try:
            if "[" in parts.netloc:
                if "%" in host:
                    raise ValueError("the zone of an address means something on this machine alone")
                host = str(IPv6Address(host))
            elif not _HOST.fullmatch(host := host.encode("idna").decode().lower()):
                raise ValueError("no such host can be")
        except ValueError as error:  # UnicodeError is one
            raise RemoteFault(f"{_short(url)} is no valid URL: its host is malformed") from error
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~", errors="replace")
        query = quote(parts.query, safe="/%:@!$&'()*+,;=~?[]", errors="replace")
        target = f"{path if path.startswith('/') else '/' + path}{'?' + query if parts.query else ''}"
        return cls(parts.scheme, host, _PORT[parts.scheme] if port is None else port, target, url)

    @property
    def authority(self) -> str:
        """The value of the header ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORT[self.scheme] else f"{host}:{self.port}"

    def towards(self, location: str) -> _Place:
        """The place that this one redirects to. Raises RemoteFault where it may not be followed."""
        base = f"{self.scheme}://{self.authority}{self.target}"
        try:
            url = urljoin(base, location.strip())
        except ValueError as error:
            raise RemoteFault(f"{self.host} redirects to what is no URL: {_short(location)}") from error
        scheme = url.partition(":")[0].lower()
        if scheme not in _PORT:
            raise RemoteFault(f"{self.host} redirects to {_short(url)}; only http and https URLs are fetched")
        if self.scheme == "https" and scheme == "http":
            raise RemoteFault(f"{self.host} redirects from https to http: {_short(url)}")
        return _Place.parse(url)


class _Guarded(httpcore.NetworkBackend):
    """Connects to public addresses only, and to the one that was looked at; all ends at ``deadline``."""

    def __init__(self, resolve: Resolve, permitted: Collection[tuple[str, int]], deadline: float) -> None:
        self.resolve = resolve
        self.permitted = permitted
        self.deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A stream to an address of ``host``; raises RemoteFault where one of them is not public."""
        try:
            found = self.resolve(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} was not found ({error})") from error
        addresses = list(dict.fromkeys(str(place[4][0]) for place in found))
        for address in addresses:
            if (address, port) in self.permitted:
                continue
            if not is_public(address):
                raise RemoteFault(f"{host} resolves to a private or reserved address ({address})")
            if port not in PORTS:
                raise RemoteFault(f"{host} is asked on port {port}; only 80, 443 and 8000 to 8999 are")
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                left = _left(self.deadline, httpcore.ConnectTimeout)
                stream = httpcore.SyncBackend().connect_tcp(
                    address, port, left, local_address, socket_options
                )
                return _Timed(stream, self.deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _Timed(httpcore.NetworkStream):
    """A stream of which every step is bound by one deadline, so that a trickle of bytes cannot go on for ever."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self.stream = stream
        self.deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As the stream's, until the deadline."""
        return self.stream.read(max_bytes, _left(self.deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As the stream's, until the deadline."""
        self.stream.write(buffer, _left(self.deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        """As the stream's."""
        self.stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """As the stream's, until the deadline."""
        left = _left(self.deadline, httpcore.ConnectTimeout)
        return _Timed(self.stream.start_tls(ssl_context, server_hostname, left), self.deadline)

    def get_extra_info(self, info: str) -> Any:
        """As the stream's."""
        return self.stream.get_extra_info(info)


def _left(deadline: float, over: type[httpcore.TimeoutException]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise over("the time for this URL is over")
    return min(left, SILENCE_SECONDS)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _host(url: str) -> str:
    """What stands for the host where one is: URLs of one host share it."""
    return url.partition("://")[2].partition("/")[0].lower()


def _text(header: bytes) -> str:
    try:
        return header.decode()
    except UnicodeDecodeError:
        return header.decode("latin-1")


def _no_medium(head: bytes, kind: str) -> str:
    """What a server sent instead of a medium: ``head`` is how it begins, ``kind`` what the server calls it."""
    if not head:
        return "nothing"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    # Some servers call every picture text/html; those are told by their bytes.
    if start.startswith((b"<!doctype html", b"<html")) or (
        kind.startswith("text/html") and b"\0" not in head
    ):
        return "an HTML page"
    return "markup, not a picture" if start.startswith(b"<") else ""


def _short(url: str) -> str:
    return url if len(url) <= 200 else f"{url[:197]}…"
