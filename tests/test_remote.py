"""Fetching what URLs name: only when asked, only from public addresses, within limits, each once."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import vlitqc
from vlitqc import remote as module
from vlitqc.engine import scorer
from vlitqc.errors import RunError
from vlitqc.media import MediaLoader, issue_kind
from vlitqc.remote import MAX_REDIRECTS, Remote, RemoteFault, is_public
from vlitqc.types import Media

LIMIT = 1 << 20

Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(body: bytes = b"", status: int = 200, **headers: str) -> Answer:
    """An answer with a length; ``content_type="x"`` becomes a header."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirect(target: str, status: int = 302) -> Answer:
    return reply(status=status, location=target)


class Server:
    """Answers by path on a port of this machine, and counts what comes."""

    def __init__(self, answers: dict[str, Answer], context: ssl.SSLContext | None = None) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = self._at_once = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with outer._lock:
                    outer.asked.append(self.path)
                    outer.headers.append({k.lower(): v for k, v in self.headers.items()})
                    outer._at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer._at_once)
                try:
                    outer.answers.get(self.path, reply(b"<!DOCTYPE html>no", 404))(self)
                except OSError:
                    self.close_connection = True
                finally:
                    with outer._lock:
                        outer._at_once -= 1

            def log_message(self, *args: object) -> None:
                """Keep the tests' output clean."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                """A client that leaves is what these tests are about."""

        self._lock = threading.Lock()
        self.http = Quiet(("127.0.0.1", 0), Handler)
        if context is not None:
            self.http.socket = context.wrap_socket(
                self.http.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self.http.shutdown()
        self._thread.join()
        self.http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(answers: dict[str, Answer] | None = None, context: ssl.SSLContext | None = None) -> Server:
        started.append(Server(answers or {}, context))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def resolver(*answers: list[str]) -> Callable[..., list[tuple[Any, ...]]]:
    """The first call resolves to the first list of addresses, and so on; the last stays."""
    calls = iter(range(1000))

    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        found = answers[min(next(calls), len(answers) - 1)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    return resolve


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Remote]:
    """A Remote that may fetch, with no pause between tries, and the servers given permitted."""

    def build(*servers: Server, **options: Any) -> Remote:
        permitted = [("127.0.0.1", server.port) for server in servers]
        settings = {"allowed": True, "pause": 0.0, "permitted": permitted, **options}
        return Remote(tmp_path / "remote", **settings)

    return build


def fault(remote: Remote, url: str, limit: int = LIMIT) -> str:
    with pytest.raises(RemoteFault) as caught:
        remote.fetch(url, limit)
    assert not remote.path(url).exists()
    assert not list(remote.folder.glob(".*"))
    return str(caught.value)


# ---------------------------------------------------------------- addresses

PUBLIC = (
    "8.8.8.8",
    "93.184.216.34",
    "2606:2800:220:1::1",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
)
PRIVATE = (
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1",
    "168.63.129.16", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:db8::1",
    "2002:7f00:1::", "2002:a00:1::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
    "fec0::1", "ff02::1",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_never_asked(address: str, make: Callable[..., Remote]) -> None:
    assert not is_public(address)
    remote = make(resolve=resolver([address]))
    told = f"pictures.example resolves to a private or reserved address ({address})"
    assert fault(remote, "http://pictures.example/a.png") == told


def test_one_private_address_among_public_ones_is_enough(make: Callable[..., Remote]) -> None:
    remote = make(resolve=resolver(["8.8.8.8", "2606:2800:220:1::1", "10.1.2.3"]))
    assert "(10.1.2.3)" in fault(remote, "https://pictures.example/a.png")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://2130706433/a.png",
        "http://0x7f000001/a.png",
        "http://0x7f.1/a.png",
        "http://017700000001/a.png",
        "http://127.1/a.png",
        "http://0/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://[::ffff:7f00:1]/a.png",
        "http://[64:ff9b::7f00:1]/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://①②⑦.⓪.⓪.①/a.png",  # IDNA turns these into the digits
        "http://127。0。0。1/a.png",
        "HTTP://127.0.0.1:8080/a.png",
    ],
)
def test_this_machine_in_every_spelling(url: str, make: Callable[..., Remote]) -> None:
    assert "resolves to a private or reserved address" in fault(make(), url)


def test_a_name_that_resolves_differently_the_second_time_gains_nothing(
    serve: Callable[..., Server], make: Callable[..., Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the address that was looked at: the name is asked once a connection."""
    server = serve({"/a.png": reply(b"secret")})
    asked = []
    monkeypatch.setattr(
        module.httpcore.SyncBackend,
        "connect_tcp",
        lambda self, host, *rest: (
            asked.append(host),
            (_ for _ in ()).throw(module.httpcore.ConnectError("no")),
        )[1],
    )
    remote = make(server, resolve=resolver(["8.8.8.8"], ["127.0.0.1"]), pause=0.0)
    told = fault(remote, "http://rebinding.example/a.png")
    # The second try resolves anew, and is refused before any connection.
    assert told == "rebinding.example resolves to a private or reserved address (127.0.0.1)"
    assert asked == ["8.8.8.8"]
    assert server.asked == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://u:p@8.8.8.8/a.png", "a URL with a user name or password in it is not fetched"),
        ("http://8.8.8.8@127.0.0.1/a.png", "a URL with a user name or password"),
        ("http://8.8.8.8\\@127.0.0.1/a.png", "holds characters that no URL has"),
        ("http://8.8.8.8/a\r\nX-Evil: 1", "holds characters that no URL has"),
        ("http://8.8.8.8/\x1b[31m", "holds characters that no URL has"),
        ("http:///a.png", "its host is malformed"),
        ("http://a b/a.png", "its host is malformed"),
        ("http://a%2eb/a.png", "its host is malformed"),
        ("http://[::1/a.png", "is no valid URL"),
        ("http://[::1%25lo]/a.png", "its host is malformed"),
        ("http://[v1.x]/a.png", "is no valid URL"),
        ("http://..../a.png", "its host is malformed"),
        (f"http://{'a' * 70}.example/a.png", "its host is malformed"),
        ("http://a.example:99999/a.png", "is no valid URL"),
        ("http://a.example:x/a.png", "is no valid URL"),
        ("s3://bucket/a.png", "only http and https URLs can be"),
        ("ftp://8.8.8.8/a.png", "only http and https URLs can be"),
        ("file:///etc/passwd", "only http and https URLs can be"),
        ("gopher://8.8.8.8/_x", "only http and https URLs can be"),
    ],
)
def test_urls_that_are_refused_unasked(url: str, told: str, make: Callable[..., Remote]) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is to be resolved")

    assert told in fault(make(resolve=never), url)


@pytest.mark.parametrize("port", [1, 22, 25, 6379, 7999, 9000, 11211])
def test_ports_that_are_not_asked(port: int, make: Callable[..., Remote]) -> None:
    told = fault(make(resolve=resolver(["8.8.8.8"])), f"http://a.example:{port}/a.png")
    assert told == f"a.example is asked on port {port}; only 80, 443 and 8000 to 8999 are"


def test_a_host_that_is_not_found(make: Callable[..., Remote]) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    assert "was not fetched: gone.example was not found" in fault(
        make(resolve=resolve), "http://gone.example/"
    )
    assert fault(make(resolve=resolver([])), "http://gone.example/a").endswith("gone.example has no address")


# ---------------------------------------------------------------- fetching


def test_it_is_fetched_once_and_kept(serve: Callable[..., Server], make: Callable[..., Remote]) -> None:
    server = serve({"/a%20%C3%A4.png?x=1&y=%22": reply(b"picture")})
    remote, url = make(server), f'{server.url}/a ä.png?x=1&y="#part'
    kept = remote.fetch(url, LIMIT)
    assert kept.read_bytes() == b"picture"
    assert kept.parent == remote.folder
    assert len(kept.name) == 64
    assert remote.fetch(url, LIMIT) == make(server).fetch(url, LIMIT) == kept
    assert len(server.asked) == 1
    assert server.headers[0] == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "vlitqc",
        "accept": "image/*, video/*, audio/*",
        "accept-encoding": "identity",
        "connection": "close",
    }


def test_what_is_not_allowed_opens_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Server], make: Callable[..., Remote]
) -> None:
    server = serve({"/a.png": reply(b"picture")})
    kept = make(server).fetch(f"{server.url}/a.png", LIMIT)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    closed = Remote(tmp_path / "remote", allowed=False)
    closed.gather([f"{server.url}/b.png"], LIMIT)
    assert closed.fetch(f"{server.url}/a.png", LIMIT) == kept
    told = f"{server.url}/b.png not fetched; --allow-remote fetches it"
    assert fault(closed, f"{server.url}/b.png") == told
    for loader in (
        MediaLoader(tmp_path, longest_side=64),
        MediaLoader(tmp_path, longest_side=64, remote=closed),
    ):
        picture = loader.load(Media("image", f"{server.url}/b.png"))
        assert picture.fault == f"remote: {told}"
        assert issue_kind(picture.fault) == "remote_image"
        assert loader.load(Media("image", "s3://b/c.png")).fault == (
            "remote: s3://b/c.png not fetched; only http and https URLs can be"
        )


def test_proxies_of_the_environment_are_not_used(
    serve: Callable[..., Server], make: Callable[..., Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(), serve({"/a.png": reply(b"picture")})
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    assert make(server).fetch(f"{server.url}/a.png", LIMIT).read_bytes() == b"picture"
    assert proxy.asked == []


class TestRedirects:
    def test_followed_up_to_the_limit(
        self, serve: Callable[..., Server], make: Callable[..., Remote]
    ) -> None:
        hops = {f"/{n}": redirect(f"/{n + 1}", 301 + n % 3) for n in range(MAX_REDIRECTS)}
        server = serve({**hops, f"/{MAX_REDIRECTS}": reply(b"there"), "/more": redirect("/0")})
        assert make(server).fetch(f"{server.url}/0", LIMIT).read_bytes() == b"there"
        told = fault(make(server), f"{server.url}/more")
        assert told == f"{server.url}/more redirects more than {MAX_REDIRECTS} times"

    def test_a_loop_ends(self, serve: Callable[..., Server], make: Callable[..., Remote]) -> None:
        server = serve({"/a": redirect("/b"), "/b": redirect("/a")})
        assert "redirects more than" in fault(make(server), f"{server.url}/a")
        assert len(server.asked) == MAX_REDIRECTS + 1

    @pytest.mark.parametrize(
        ("target", "told"),
        [
            (
                "http://127.0.0.1:8080/admin",
                "127.0.0.1 resolves to a private or reserved address (127.0.0.1)",
            ),
            ("http://169.254.169.254/", "169.254.169.254 resolves to a private or reserved"),
            ("//2130706433/", "resolves to a private or reserved address (127.0.0.1)"),
            ("http://[::1]:8080/", "(::1)"),
            ("file:///etc/passwd", "redirects to file:///etc/passwd; only http and https URLs are fetched"),
            ("gopher://x/", "only http and https URLs are fetched"),
            ("javascript:alert(1)", "only http and https URLs are fetched"),
            ("data:image/png;base64,AAAA", "only http and https URLs are fetched"),
            ("http://u:p@8.8.8.8/", "a URL with a user name or password in it is not fetched"),
            ("http://8.8.8.8:22/", "8.8.8.8 is asked on port 22"),
            ("http://[::1", "redirects to what is no URL"),
        ],
    )
    def test_each_is_looked_at_anew(
        self, serve: Callable[..., Server], make: Callable[..., Remote], target: str, told: str
    ) -> None:
        server = serve({"/a.png": redirect(target)})
        assert told in fault(make(server), f"{server.url}/a.png")
        assert len(server.asked) == 1

    def test_a_redirect_to_nowhere(self, serve: Callable[..., Server], make: Callable[..., Remote]) -> None:
        server = serve({"/a": reply(status=302)})
        assert fault(make(server), f"{server.url}/a") == f"127.0.0.1 answers 302 for {server.url}/a"


class TestLimits:
    def test_a_length_told_beforehand(
        self, serve: Callable[..., Server], make: Callable[..., Remote]
    ) -> None:
        server = serve({"/a": reply(b"x" * 11)})
        assert make(server).fetch(f"{server.url}/a", 11).stat().st_size == 11
        server.answers["/b"] = server.answers["/a"]
        assert (
            fault(make(server), f"{server.url}/b", 10) == f"{server.url}/b has 11 bytes, over the limit of 10"
        )

    def test_an_endless_body(self, serve: Callable[..., Server], make: Callable[..., Remote]) -> None:
        def endless(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.end_headers()
            while True:
                handler.wfile.write(bytes(1 << 16))

        server = serve({"/a": endless})
        told = fault(make(server), f"{server.url}/a")
        assert told == f"{server.url}/a has more bytes than the limit of {LIMIT}"

    def test_endless_headers(self, serve: Callable[..., Server], make: Callable[..., Remote]) -> None:
        def endless(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                handler.wfile.write(b"X-Y: " + b"z" * 1000 + b"\r\n")

        server = serve({"/a": endless})
        assert "was not fetched" in fault(make(server), f"{server.url}/a")

    @pytest.mark.parametrize("part", ["headers", "body"])
    def test_a_trickle(self, part: str, serve: Callable[..., Server], make: Callable[..., Remote]) -> None:
        def slow(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if part == "body" else b"X: "))
            while True:
                handler.wfile.write(b"x")
                time.sleep(0.05)

        server = serve({"/a": slow})
        started = time.monotonic()
        told = fault(make(server, seconds=0.6), f"{server.url}/a")
        assert told == f"{server.url}/a not fetched within 0.6 seconds"
        assert time.monotonic() - started < 60
        assert len(server.asked) == 1

    def test_silence(
        self, serve: Callable[..., Server], make: Callable[..., Remote], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "SILENCE_SECONDS", 0.2)
        over = threading.Event()
        server = serve({"/a": lambda handler: over.wait(5) and None})
        assert fault(make(server), f"{server.url}/a") == f"{server.url}/a not answered for 0.2 seconds"
        assert len(server.asked) == 2
        over.set()

    def test_what_comes_packed_is_not_unpacked(
        self, serve: Callable[..., Server], make: Callable[..., Remote]
    ) -> None:
        bomb = gzip.compress(bytes(50 * LIMIT))
        server = serve({"/a": reply(bomb, content_encoding="gzip")})
        assert len(bomb) < LIMIT
        assert (
            fault(make(server), f"{server.url}/a") == f"127.0.0.1 sends {server.url}/a packed (gzip), unasked"
        )

    def test_a_body_that_ends_early_is_not_kept(
        self, serve: Callable[..., Server], make: Callable[..., Remote]
    ) -> None:
        def short(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly so much")

        server = serve({"/a": short})
        assert "was not fetched" in fault(make(server), f"{server.url}/a")
        assert len(server.asked) == 2

    def test_what_is_no_http_at_all(self, serve: Callable[..., Server], make: Callable[..., Remote]) -> None:
        server = serve({"/a": lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n") and None})
        assert "was not fetched" in fault(make(server), f"{server.url}/a")

    def test_few_connections_to_one_host(
        self, serve: Callable[..., Server], make: Callable[..., Remote]
    ) -> None:
        def late(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(0.05)
            reply(b"x")(handler)

        server = serve({f"/{n}": late for n in range(20)})
        remote = make(server)
        remote.gather([f"{server.url}/{n}" for n in range(20)], LIMIT)
        assert len(list(remote.folder.iterdir())) == 20
        assert 2 <= server.most_at_once <= module.CONNECTIONS_PER_HOST

    def test_a_host_that_is_slow_holds_up_no_other(
        self, serve: Callable[..., Server], make: Callable[..., Remote]
    ) -> None:
        over = threading.Event()

        def stuck(handler: BaseHTTPRequestHandler) -> None:
            over.wait(20)
            reply(b"late")(handler)

        slow, quick = (
            serve({f"/{n}": stuck for n in range(40)}),
            serve({"/a": reply(b"x"), "/b": reply(b"y")}),
        )
        remote = make(slow, quick, resolve=resolver(["127.0.0.1"]))
        urls = [f"http://slow.example:{slow.port}/{n}" for n in range(40)]
        last = [f"http://quick.example:{quick.port}/{name}" for name in "ab"]
        gathering = threading.Thread(target=remote.gather, args=([*urls, *last], LIMIT))
        gathering.start()
        try:
            until = time.monotonic() + 60
            while len(quick.asked) < 2 and time.monotonic() < until:
                time.sleep(0.01)
            assert sorted(quick.asked) == ["/a", "/b"]
            assert len(slow.asked) <= module.CONNECTIONS_PER_HOST
        finally:
            over.set()
            gathering.join()

    def test_a_host_that_never_answers_is_given_up_until_the_next_gathering(
        self, serve: Callable[..., Server], make: Callable[..., Remote], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "SILENCE_SECONDS", 0.1)
        over = threading.Event()
        server = serve({f"/{n}": lambda handler: over.wait(5) and None for n in range(60)})
        remote, urls = make(server), [f"{server.url}/{n}" for n in range(60)]
        remote.gather(urls, LIMIT)
        over.set()
        assert module.GIVE_UP <= len(server.asked) < module.GIVE_UP + module.CONNECTIONS_PER_HOST
        with pytest.raises(RemoteFault, match="has not answered 5 times in a row") as caught:
            remote.fetch(urls[-1], LIMIT)
        assert caught.value.passing
        server.answers = {f"/{n}": reply(b"there") for n in range(60)}
        remote.gather(urls, LIMIT)
        assert all(remote.path(url).is_file() for url in urls)

    def test_an_error_ends_the_gathering_after_the_urls_at_hand(
        self, serve: Callable[..., Server], make: Callable[..., Remote], tmp_path: Path
    ) -> None:
        server = serve({f"/{n}": reply(b"x") for n in range(60)})
        (tmp_path / "remote").write_text("in the way")
        with pytest.raises(RunError, match="cannot be written"):
            make(server).gather([f"{server.url}/{n}" for n in range(60)], LIMIT)
        assert len(server.asked) <= 2 * module.CONNECTIONS_PER_HOST


class TestWhatIsNoMedium:
    @pytest.mark.parametrize(
        ("body", "kind", "told"),
        [
            (b"", "image/png", "nothing"),
            (b"<!DOCTYPE html><p>gone", "image/png", "an HTML page"),
            (b"\xef\xbb\xbf \n<HTML lang=en>", "", "an HTML page"),
            (b"please log in", "Text/HTML; charset=utf-8", "an HTML page"),
            (b"<?xml version='1.0'?><Error>", "application/xml", "markup, not a picture"),
        ],
    )
    def test_it_is_not_kept(
        self, body: bytes, kind: str, told: str, serve: Callable[..., Server], make: Callable[..., Remote]
    ) -> None:
        server = serve({"/a": reply(body, content_type=kind)})
        remote, url = make(server), f"{server.url}/a"
        assert fault(remote, url) == f"{url}: the server answered with {told}"
        server.answers["/a"] = reply(b"picture")
        remote.gather([url], LIMIT)
        assert remote.fetch(url, LIMIT).read_bytes() == b"picture"

    def test_a_picture_that_the_server_calls_a_page_is_kept(
        self, serve: Callable[..., Server], make: Callable[..., Remote], picture: Callable[[int], bytes]
    ) -> None:
        server = serve({"/a": reply(picture(1), content_type="text/html")})
        assert make(server).fetch(f"{server.url}/a", LIMIT).read_bytes() == picture(1)

    def test_what_cannot_be_decoded_is_kept_and_its_fault_names_the_cure(
        self, serve: Callable[..., Server], make: Callable[..., Remote], tmp_path: Path
    ) -> None:
        server = serve({"/a.png": reply(b'{"error": "try later"}')})
        remote, url = make(server), f"{server.url}/a.png"
        loader = MediaLoader(tmp_path, longest_side=64, remote=remote)
        cure = f"; delete remote/{remote.path(url).name} in the run to fetch it again"
        for told in (loader.load(Media("image", url)).fault, loader.clip(Media("video", url)).fault):
            assert told is not None and told.endswith(cure) and told.count("delete") == 1
        assert len(server.asked) == 1


def test_a_target_may_be_utf8_or_latin1(serve: Callable[..., Server], make: Callable[..., Remote]) -> None:
    def towards(location: bytes) -> Answer:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(
                b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
            )

        return answer

    server = serve(
        {"/u": towards("/ä".encode()), "/l": towards("/ä".encode("latin-1")), "/%C3%A4": reply(b"x")}
    )
    for path in "ul":
        assert make(server).fetch(f"{server.url}/{path}", LIMIT).read_bytes() == b"x"
    assert server.asked == ["/u", "/%C3%A4", "/l", "/%C3%A4"]


class TestTries:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_what_may_pass_is_tried_twice(
        self, status: int, serve: Callable[..., Server], make: Callable[..., Remote]
    ) -> None:
        server = serve()

        def once(handler: BaseHTTPRequestHandler) -> None:
            server.answers["/a"] = reply(b"there")
            reply(status=status)(handler)

        server.answers["/a"] = once
        assert make(server).fetch(f"{server.url}/a", LIMIT).read_bytes() == b"there"
        server.answers["/b"] = reply(status=status)
        assert fault(make(server), f"{server.url}/b") == f"127.0.0.1 answers {status} for {server.url}/b"
        assert server.asked == ["/a", "/a", "/b", "/b"]

    @pytest.mark.parametrize("status", [204, 206, 400, 401, 403, 404, 410, 501])
    def test_what_stays_is_not(
        self, status: int, serve: Callable[..., Server], make: Callable[..., Remote]
    ) -> None:
        server = serve({"/a": reply(status=status)})
        assert f"answers {status}" in fault(make(server), f"{server.url}/a")
        assert len(server.asked) == 1

    def test_a_failure_is_remembered_until_the_next_gathering(
        self, serve: Callable[..., Server], make: Callable[..., Remote]
    ) -> None:
        server = serve()
        remote, url = make(server), f"{server.url}/a"
        assert fault(remote, url) == fault(remote, url)
        assert len(server.asked) == 1
        server.answers["/a"] = reply(b"there")
        remote.gather([url], LIMIT)
        assert remote.fetch(url, LIMIT).read_bytes() == b"there"
        assert len(server.asked) == 2


def test_a_folder_that_cannot_be_written_is_said(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve({"/a": reply(b"x")})
    (tmp_path / "file").write_text("")
    remote = Remote(tmp_path / "file" / "remote", allowed=True, permitted=[("127.0.0.1", server.port)])
    with pytest.raises(RunError, match="cannot be written"):
        remote.fetch(f"{server.url}/a", LIMIT)


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / f".{'0' * 64}.1-2.part").write_bytes(b"half")
    (tmp_path / ("1" * 64)).write_bytes(b"whole")
    module.sweep(tmp_path)
    module.sweep(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["1" * 64]


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of ``pictures.example`` with its key, that nobody vouches for."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem -out cert.pem"
    name = ["-subj", "/CN=pictures.example", "-addext", "subjectAltName=DNS:pictures.example"]
    subprocess.run([*command.split(), *name], cwd=folder, check=True, capture_output=True)
    return folder


class TestTls:
    @pytest.fixture
    def server(self, serve: Callable[..., Server], certificate: Path) -> Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        return serve({"/a": reply(b"there"), "/down": redirect("http://pictures.example/")}, context)

    def test_a_certificate_that_nobody_vouches_for(self, server: Server, make: Callable[..., Remote]) -> None:
        remote = make(server, resolve=resolver(["127.0.0.1"]))
        told = fault(remote, f"https://pictures.example:{server.port}/a")
        assert told.startswith("pictures.example has no valid certificate: self")
        assert server.asked == []

    def test_it_is_checked_against_the_name(
        self, server: Server, make: Callable[..., Remote], certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        monkeypatch.setattr(module, "_tls", lambda: trusting)
        remote = make(server, resolve=resolver(["127.0.0.1"]))
        assert remote.fetch(f"https://pictures.example:{server.port}/a", LIMIT).read_bytes() == b"there"
        told = fault(remote, f"https://other.example:{server.port}/a")
        assert "Hostname mismatch" in told
        told = fault(remote, f"https://pictures.example:{server.port}/down")
        assert told == "pictures.example redirects from https to http: http://pictures.example/"


# ---------------------------------------------------------------- runs


def records(urls: list[str]) -> str:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A picture."}]
    return "".join(
        json.dumps({"id": i, "image": u, "conversations": turns}) + "\n" for i, u in enumerate(urls)
    )


def test_a_run_keeps_what_it_fetched_and_asks_again_for_what_failed(
    tmp_path: Path,
    tiny: str,
    picture: Callable[[int], bytes],
    serve: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(
        {"/a.png": reply(picture(1)), "/page.png": reply(b"<!DOCTYPE html>gone"), "/empty.png": reply(b"")}
    )
    allowing = partial(Remote, permitted=[("127.0.0.1", server.port)], pause=0.0)
    monkeypatch.setattr(scorer, "Remote", allowing)
    names = ("a", "page", "empty", "gone")
    data = tmp_path / "data.jsonl"
    data.write_text(records([f"{server.url}/{name}.png" for name in names] + ["http://10.0.0.1/x.png"]))

    closed = vlitqc.score(data, tiny)
    assert server.asked == []
    assert set(closed.issues["kind"]) == {"remote_image"}
    assert not (closed.path / "remote").exists()

    run = vlitqc.score(data, tiny, allow_remote=True)
    faults = run.issues.query("severity == 'error'")
    told = dict(zip(faults["row"], faults["detail"], strict=True))
    assert sorted(told) == [1, 2, 3, 4]
    assert told[1] == f"remote: {server.url}/page.png: the server answered with an HTML page"
    assert told[2] == f"remote: {server.url}/empty.png: the server answered with nothing"
    assert told[3] == f"remote: 127.0.0.1 answers 404 for {server.url}/gone.png"
    assert told[4] == "remote: 10.0.0.1 resolves to a private or reserved address (10.0.0.1)"
    assert sorted(server.asked) == sorted(f"/{name}.png" for name in names)
    assert len(list((run.path / "remote").iterdir())) == 1
    assert run.info["plan"]["allow_remote"] is True
    marker = run.path / "shards" / "00000" / "done.json"
    before = marker.stat().st_mtime_ns

    # The same failures: the shard stays; nothing else is fetched again.
    vlitqc.score(data, tiny, allow_remote=True)
    failed = ["/empty.png", "/gone.png", "/page.png"]
    assert sorted(server.asked[4:]) == failed
    assert marker.stat().st_mtime_ns == before

    # The server has it now: only what failed is fetched, and its shard scored again.
    server.answers["/gone.png"] = reply(picture(2))
    run = vlitqc.score(data, tiny, allow_remote=True)
    assert sorted(run.issues.query("severity == 'error'")["row"]) == [1, 2, 4]
    assert sorted(server.asked[7:]) == failed

    # The page and the Python API show what is kept, without a socket.
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a socket was opened"))
    (shown,) = vlitqc.Run(run.path).images(run.record(0))
    assert shown.pixels is not None
    run.report()


def test_without_the_flag_a_run_opens_no_socket(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    data = tmp_path / "data.jsonl"
    data.write_text(records(["http://8.8.8.8/a.png", "https://example.org/b.png", "ftp://x/y", "//x/y"]))
    run = vlitqc.score(data, tiny)
    assert list(run.issues["kind"]) == ["remote_image"] * 3 + ["path_outside_root"]
