"""The page of a run from a server on this machine: every record has its card, and every count is exact.

It listens on 127.0.0.1 alone. Its address holds a random token, without which everything is 404; a request that
was sent to another host name is refused, so that no web page elsewhere can reach it by turning a name of its own
towards this machine. A request names records by their row and nothing by a path.
"""

from __future__ import annotations

import functools
import hmac
import html as markup
import json
import math
import re
import secrets
import socketserver
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlitqc.engine import inputs
from vlitqc.engine.run import Run
from vlitqc.errors import UnknownName, UsageError, VlitqcError
from vlitqc.types import Unreadable
from vlitqc_reports import html, wording
from vlitqc_reports.explorer.contents import read_tasks
from vlitqc_reports.explorer.samples import Card, Samples
from vlitqc_reports.source import is_numeric
from vlitqc_reports.thumbnails import thumbnail

SIDE = 320
MAX_BODY = 1 << 16
MAX_ROWS = 100
_SORTED_METRICS = 8
"""Sorted columns kept: 12 bytes a record each."""
_SECONDS = 30
"""After which a silent connection is closed."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"')


def serve(run: Run, *, port: int = 0, projection: str = "pca", ready: Callable[[str], None]) -> None:
    """Serve the page of a run until the process is interrupted (Ctrl-C); ``ready`` is told the address.

    ``port`` 0 takes a free one. Raises UsageError where the port cannot be had, InputError where the input has moved or
    changed since, and what ``html.render`` raises.
    """
    with Server(run, port=port, projection=projection) as server:
        try:
            ready(server.url)
            server.serve_forever()
        except KeyboardInterrupt:
            return


class Refused(Exception):
    """A request that gets no answer: the status and a sentence."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


# ---------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True)
class Sorted:
    """The values of one metric among the readable records, ascending, and the row of each; equal ones by row."""

    values: NDArray[np.float64]
    rows: NDArray[np.uint32]

    def cut(self, side: str, at: float) -> int:
        """The number of values before a threshold: those < ``at`` for "below", those ≤ ``at`` for "above"."""
        return int(np.searchsorted(self.values, at, "left" if side == "below" else "right"))

    def dropped(self, side: str, at: float) -> NDArray[np.uint32]:
        """The rows beyond a threshold, those farthest from it first."""
        cut = self.cut(side, at)
        return self.rows[:cut] if side == "below" else self.rows[cut:][::-1]

    def closest(self, side: str, at: float, offset: int, limit: int) -> NDArray[np.uint32]:
        """Part of the rows on both sides of a threshold in turn, nearest first, beginning with one that goes."""
        cut = self.cut(side, at)
        low, high = cut, len(self.rows) - cut
        first, second = (low, high) if side == "below" else (high, low)
        shared = min(first, second)
        k = np.arange(offset, min(offset + limit, len(self.rows)))
        # Once one side is used up the rest is of the other.
        goes = np.where(k < 2 * shared, k % 2 == 0, first > second)
        depth = np.where(k < 2 * shared, k // 2, k - shared)
        on_low = goes if side == "below" else ~goes
        return self.rows[np.where(on_low, cut - 1 - depth, cut + depth)]


class Review:
    """What the page asks of a run. Every method may be called from several threads."""

    def __init__(self, run: Run) -> None:
        self._run = run
        # The page fetches pictures one by one, when they are seen.
        self._samples = Samples(run, side=0)
        # Neither the reader of the input nor the decoder of pictures promises to bear two threads.
        self._reading = threading.Lock()
        self._sorting = threading.Lock()
        empty = run.take(())
        self._metrics = {
            name: m
            for name, m in run.metrics().items()
            if name in empty.column_names and is_numeric(empty.schema.field(name).type)
        }
        states = run.table(["state"])["state"]
        self._readable: NDArray[np.bool_] = pc.not_equal(states, "unreadable").to_numpy()
        self._tasks, self._codes = read_tasks(run, np.flatnonzero(self._readable))
        self._sorted = functools.lru_cache(_SORTED_METRICS)(self._sort)

    def count(self, below: Mapping[str, float], above: Mapping[str, float]) -> dict[str, Any]:
        """What ``vlitqc filter`` would keep with these thresholds, over all records and in each task."""
        for name in (*below, *above):
            self._check(name)
        kept = self._readable
        if below or above:
            kept = self._run.filter(drop_below=below, drop_above=above).to_numpy()
        readable, kept_count = int(self._readable.sum()), int(kept.sum())
        left = np.bincount(self._codes[kept[self._readable]], minlength=len(self._tasks))
        return {
            "kept": kept_count,
            "dropped": readable - kept_count,
            "unreadable": len(kept) - readable,
            "tasks": [
                {"label": task["label"], "kept": int(k), "total": task["n"]}
                for task, k in zip(self._tasks, left, strict=False)
            ],
        }

    def order(
        self, metric: str, order: str, side: str | None, at: float | None, offset: int, limit: int
    ) -> dict[str, Any]:
        """Rows of the readable records with a score, from ``offset`` on, in one of these orders, and how many.

        ``closest`` to the threshold ``at``, both sides in turn; ``dropped`` by it, farthest first; ``worst``, the end
        that ``side`` names, by default the metric's worse one. Raises UnknownName and UsageError.
        """
        found = self._sorted(self._check(metric))
        if order == "worst":
            if side is None:
                side = "above" if self._metrics[metric]["higher_is_better"] is False else "below"
            ranked = found.rows if side == "below" else found.rows[::-1]
        elif side is None or at is None:
            raise UsageError(f"order={order}: say of which threshold, with side and at")
        elif order == "closest":
            rows = found.closest(side, at, offset, limit)
            return {"rows": rows.tolist(), "total": len(found.rows)}
        else:
            ranked = found.dropped(side, at)
        return {"rows": ranked[offset : offset + limit].tolist(), "total": len(ranked)}

    def cards(self, rows: list[int]) -> list[Card]:
        """The cards of these rows. Raises Refused for one that there is not."""
        for row in rows:
            self._check_row(row)
        with self._reading:
            return list(self._samples.cards(rows))

    def picture(self, row: int, k: int) -> bytes:
        """A record's picture number ``k`` as JPEG, at most 320 px a side. Raises Refused where there is none."""
        self._check_row(row)
        with self._reading:
            record = self._run.record(row)
            if isinstance(record, Unreadable) or k >= len(record.images):
                raise Refused(HTTPStatus.NOT_FOUND, f"row {row} has no picture {k}")
            (image,) = self._run.images(replace(record, media=(record.images[k],)))
        small = thumbnail(image, SIDE)
        if small is None:
            raise Refused(HTTPStatus.NOT_FOUND, image.fault or "no picture")
        return small.jpeg

    def _check(self, metric: str) -> str:
        if metric not in self._metrics:
            raise UnknownName("metric with scores in this run", metric, self._metrics)
        return metric

    def _check_row(self, row: int) -> None:
        if row >= len(self._readable):
            raise Refused(
                HTTPStatus.NOT_FOUND, f"there is no row {row}; the last is {len(self._readable) - 1}"
            )

    def _sort(self, metric: str) -> Sorted:
        with self._sorting:
            column = pc.cast(self._run.table([metric])[metric], "float64")
            values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False)
            rows = np.flatnonzero(self._readable & np.isfinite(values)).astype(np.uint32)
            rows = rows[np.argsort(values[rows], kind="stable")]
            return Sorted(values[rows], rows)


# ---------------------------------------------------------------- requests


class Server(socketserver.ThreadingTCPServer):
    """One run on 127.0.0.1, one thread a connection. ``url`` is the address with its token."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, run: Run, *, port: int = 0, projection: str = "pca") -> None:
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used ({error.strerror}); name another with --port, or leave it out"
            ) from error
        try:
            inputs.reopened(run.info["input"], run.info["command"])
            # The first record reads where all of them are, which nobody should wait for before a card.
            run.record(0)
            self.review = Review(run)
            text = html.render(run, mode="serve", projection=projection)
        except BaseException:
            self.server_close()
            raise
        self.page = text.encode("utf-8")
        found = _POLICY.search(text)
        assert found is not None, "every page states its policy"
        self.policy = f"{markup.unescape(found[1])}; frame-ancestors 'none'"
        self.token = secrets.token_urlsafe(16)
        self.hosts = {f"{name}:{self.server_address[1]}" for name in ("127.0.0.1", "localhost")}

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT/TOKEN/``."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no fault; anything else is told in plain text."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            tell_fault()


def tell_fault() -> None:
    """Print the exception at hand, a defect of ours; what it quotes of the data turns or hides nothing."""
    sys.stderr.write(wording.plain(traceback.format_exc()))


class Handler(BaseHTTPRequestHandler):
    """One request: checked, answered from ``Review``, refused with a sentence as JSON."""

    protocol_version = "HTTP/1.1"
    timeout = _SECONDS
    server: Server

    def do_GET(self) -> None:
        """The page, cards, orders and pictures."""
        self._answer(
            {"": self._page, "api/cards": self._cards, "api/order": self._order, "picture": self._picture}
        )

    def do_POST(self) -> None:
        """The count of what thresholds keep."""
        self._answer({"api/count": self._count})

    def version_string(self) -> str:
        """Nothing about what serves."""
        return "vlitqc"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: their address holds the token."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A refusal by the standard library, in the form of ours."""
        self._refuse(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def _answer(self, endpoints: Mapping[str, Callable[[dict[str, str]], None]]) -> None:
        try:
            self._check_source()
            endpoint, query = self._place()
            if endpoint not in endpoints:
                known = endpoint in ("", "api/cards", "api/order", "picture", "api/count")
                raise Refused(
                    *(
                        (HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command} is not for this address")
                        if known
                        else (HTTPStatus.NOT_FOUND, "there is nothing here")
                    )
                )
            endpoints[endpoint](query)
        except Refused as refused:
            self._refuse(refused.status, str(refused))
        except UsageError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except VlitqcError as error:
            self._refuse(HTTPStatus.CONFLICT, str(error))
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - a defect of ours must not look like an answer
            tell_fault()
            self._refuse(
                HTTPStatus.INTERNAL_SERVER_ERROR, "this should not have happened; the terminal says more"
            )

    def _check_source(self) -> None:
        """Refuse what another site's page has sent, or was made to send."""
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            raise Refused(HTTPStatus.FORBIDDEN, "the request was sent to another host")
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts:
            raise Refused(HTTPStatus.FORBIDDEN, "the request comes from another site")

    def _place(self) -> tuple[str, dict[str, str]]:
        """The endpoint below the token and what is asked of it."""
        path, _, asked = self.path.partition("?")
        before, token, endpoint = [*path.split("/", 2), "", ""][:3]
        right = hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        if not right or path.count("/") < 2 or before:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        try:
            pairs = parse_qsl(asked, keep_blank_values=True, strict_parsing=bool(asked), max_num_fields=12)
        except ValueError:
            raise Refused(HTTPStatus.BAD_REQUEST, "the query cannot be read") from None
        query = dict(pairs)
        if len(query) < len(pairs):
            raise Refused(HTTPStatus.BAD_REQUEST, "the query names something twice")
        return endpoint, query

    def _page(self, query: dict[str, str]) -> None:
        _only(query)
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page, self.server.policy)

    def _count(self, query: dict[str, str]) -> None:
        _only(query)
        asked = self._body()
        if not isinstance(asked, dict) or not {*asked} <= {"below", "above"}:
            raise UsageError('expected {"below": {METRIC: NUMBER}, "above": {METRIC: NUMBER}}')
        below, above = (_levels(side, asked.get(side, {})) for side in ("below", "above"))
        self._send_json(self.server.review.count(below, above))

    def _cards(self, query: dict[str, str]) -> None:
        _only(query, "rows")
        rows = [_whole("rows", text) for text in query["rows"].split(",")]
        if len(rows) > MAX_ROWS:
            raise UsageError(f"rows: at most {MAX_ROWS} at a time")
        self._send_json(self.server.review.cards(rows))

    def _order(self, query: dict[str, str]) -> None:
        _only(query, "metric", "order", optional=("side", "at", "offset", "limit"))
        order, side = query["order"], query.get("side")
        if order not in ("closest", "worst", "dropped"):
            raise UnknownName("order", order, ("closest", "worst", "dropped"))
        if side not in (None, "below", "above"):
            raise UnknownName("side", side, ("below", "above"))
        at = _finite("at", query["at"]) if "at" in query else None
        offset, limit = (
            _whole(name, query.get(name, other)) for name, other in (("offset", "0"), ("limit", "12"))
        )
        if limit > MAX_ROWS:
            raise UsageError(f"limit: at most {MAX_ROWS}")
        self._send_json(self.server.review.order(query["metric"], order, side, at, offset, limit))

    def _picture(self, query: dict[str, str]) -> None:
        _only(query, "row", "k")
        jpeg = self.server.review.picture(_whole("row", query["row"]), _whole("k", query["k"]))
        self._send(HTTPStatus.OK, "image/jpeg", jpeg, _NOTHING)

    def _body(self) -> Any:
        """The JSON of the request."""
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not re.fullmatch("[0-9]{1,18}", length):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if int(length) > MAX_BODY:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise Refused(HTTPStatus.BAD_REQUEST, "the body is no JSON") from None

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        data = json.dumps(value, allow_nan=False).encode("ascii")
        self._send(status, "application/json", data, _NOTHING)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        # What is left of the request is not read, and would be taken for the next one.
        self.close_connection = True
        self._send_json({"error": wording.plain(why)}, status)

    def _send(self, status: HTTPStatus, kind: str, data: bytes, policy: str) -> None:
        self.send_response(status)
        headers = {**_HEADERS, "Content-Security-Policy": policy}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in {**headers, "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _only(query: Mapping[str, str], *names: str, optional: tuple[str, ...] = ()) -> None:
    """Raise UsageError unless the query has exactly these names, and perhaps the optional ones."""
    missing, strange = {*names} - {*query}, {*query} - {*names, *optional}
    if missing:
        raise UsageError(f"the query lacks {', '.join(sorted(missing))}")
    if strange:
        raise UnknownName("parameter", min(strange), (*names, *optional))


def _whole(name: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,15}", text):
        raise UsageError(f"{name}: expected a whole number, 0 or more")
    return int(text)


def _finite(name: str, value: object) -> float:
    number = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{name}: expected a finite number")
    return number


def _levels(side: str, levels: object) -> dict[str, float]:
    """Thresholds by metric, as numbers or decimals."""
    if not isinstance(levels, dict):
        raise UsageError(f"{side}: expected an object with a number for each metric")
    return {name: _finite(f"{side}: {wording.clip(name, 80)}", level) for name, level in levels.items()}
