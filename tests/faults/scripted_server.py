"""A chat server on 127.0.0.1 that answers as a test tells it to, faults included."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """What arrived: ``number`` counts requests from 0; the names of headers are in lower case."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def content(self) -> Any:
        """What the user's message holds."""
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Reply:
    """What goes back. ``cut``: the connection ends after so many bytes of the body; ``hang``: nothing goes back."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None
    hang: bool = False
    words: str = "Said"


def said(
    text: str | None,
    *,
    finish: str | None = "stop",
    refusal: str | None = None,
    delay: float = 0.0,
    **choice: Any,
) -> Reply:
    """A chat completion."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
    return Reply(json.dumps(body).encode(), delay=delay)


def fails(status: int, message: str = "no", **headers: str) -> Reply:
    """An error in OpenAI's form; ``retry_after="3"`` becomes a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps({"error": {"message": message, "type": "t"}}).encode(), status, named)


def weighed(*places: tuple[str, Mapping[str, float]]) -> Reply:
    """A completion with log-probabilities: the chosen token of each place, and those of all listed."""
    content = [
        {
            "token": chosen,
            "logprob": listed[chosen],
            "bytes": None,
            "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in listed.items()],
        }
        for chosen, listed in places
    ]
    return said("".join(chosen for chosen, _ in places), logprobs={"content": content})


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """By default 5 connections may wait, and the system resets some of those that come beyond them."""


class ScriptedServer:
    """Answers each request with ``script(request)``; counts what comes, and how much of it at once."""

    def __init__(self, script: Callable[[Request], Reply]) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._serve(self)

            def log_message(self, *args: object) -> None:
                """Keep the tests' output clean."""

        self._http = _Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def calls(self) -> int:
        """Requests so far."""
        return len(self.requests)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Let go of those that hang, and end."""
        self._over.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        size = int(handler.headers.get("content-length", 0))
        body = json.loads(handler.rfile.read(size) or b"{}")
        with self._lock:
            request = Request(
                len(self.requests),
                handler.path,
                {name.lower(): value for name, value in handler.headers.items()},
                body,
            )
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self.script(request)
            self._over.wait(300 if reply.hang else reply.delay)
        finally:
            with self._lock:
                self._at_once -= 1
        handler.close_connection = reply.hang or reply.cut is not None
        if reply.hang:
            return
        try:
            handler.send_response(reply.status, reply.words)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(reply.body)))
            handler.end_headers()
            handler.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True


@contextmanager
def scripted(script: Callable[[Request], Reply]) -> Iterator[ScriptedServer]:
    """A server that runs while the block does."""
    server = ScriptedServer(script)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def in_turn(*replies: Reply) -> Callable[[Request], Reply]:
    """A script: the first request gets the first reply, and so on; the last stays."""
    return lambda request: replies[min(request.number, len(replies) - 1)]
