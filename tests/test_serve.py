"""The page's server: it answers what the page asks, exactly, and nobody and nothing else."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlitqc
from vlitqc.cli import cli
from vlitqc.engine.run import Run
from vlitqc.errors import InputError, UsageError
from vlitqc.filtering.request import filtered
from vlitqc_reports import serve
from vlitqc_reports.explorer.contents import read_tasks
from vlitqc_reports.serve import MAX_BODY, MAX_ROWS, Server, Sorted

N = 40
BROKEN, TEXT_ONLY, TWO_PICTURES, MISSING, LARGE, HOSTILE = 7, 8, 9, 10, 11, 12
EVIL = "</script><img src=x onerror=alert(1)>\u202egnp\x1b[31m"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of a refusal, which must be one."""
        assert self.headers["Content-Type"] == "application/json"
        assert {*self.json} == {"error"}
        told: str = self.json["error"]
        assert told
        assert "Traceback" not in told
        return told


Ask = Callable[..., Answer]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, texts: str, record: Any, picture: Any) -> Run:
    """Forty records: one unreadable, and of each sort that a card must cope with one; in three tasks."""
    home = tmp_path_factory.mktemp("served")
    for i in range(N):
        (home / f"{i}.png").write_bytes(picture(i))
    PIL.Image.effect_noise((900, 600), 40).save(home / "large.png")
    lines: list[Any] = [record(i, f"{i}.png") for i in range(N)]
    lines[TEXT_ONLY] = record(TEXT_ONLY)
    lines[TWO_PICTURES] = record(TWO_PICTURES, ["1.png", "2.png"])
    lines[MISSING] = record(MISSING, "nowhere.png")
    lines[LARGE] = record(LARGE, "large.png")
    lines[HOSTILE] = record(HOSTILE, "3.png") | {"id": EVIL}
    raw = [json.dumps(line) for line in lines]
    raw[BROKEN] = '{"id": "r7", "conversations": ['
    (home / "data.jsonl").write_text("\n".join(raw) + "\n", encoding="utf-8")
    scored = vlitqc.score(home / "data.jsonl", texts, report=False)
    for part in (scored.path / "scores").glob("*.parquet"):
        table = pq.read_table(part)
        tasks = [
            None if row == BROKEN else ["ocr", EVIL, "chat"][row % 3] for row in table["row"].to_pylist()
        ]
        pq.write_table(table.append_column("task", pa.array(tasks, pa.string())), part)
    return Run.open(scored.path)


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[Server]:
    with Server(run) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def ask(server: Server) -> Ask:
    """Sends one request; ``path`` is put behind the token unless it begins with a slash."""

    def send(
        path: str = "",
        *,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        target = path if path.startswith(("/", "http:")) else f"/{server.token}/{path}"
        if query:
            target += "?" + urlencode(query)
        data, sent = None, dict(headers or {})
        if body is not None:
            method = "POST" if method == "GET" else method
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
        try:
            connection.request(method, target, data, sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read())
        finally:
            connection.close()

    return send


# ---------------------------------------------------------------- who is answered


def test_the_page_is_served_under_its_token_alone(server: Server, ask: Ask) -> None:
    page = ask()
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.body == server.page
    assert b'"mode":"serve"' in page.body
    assert len(server.token) >= 20
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/{re.escape(server.token)}/", server.url)
    assert server.server_address[0] == "127.0.0.1"


def test_the_policy_of_the_page_comes_as_a_header_too(ask: Ask) -> None:
    page = ask()
    policy = page.headers["Content-Security-Policy"]
    (stated,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page.body.decode())
    assert policy == stated.replace("&#39;", "'") + "; frame-ancestors 'none'"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["", "api/cards?rows=1", "picture?row=0&k=0", "api/nothing"])
def test_every_answer_is_private(ask: Ask, path: str) -> None:
    headers = ask(path).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Python" not in headers["Server"]
    assert not any(name.startswith("Access-Control") for name in headers)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/favicon.ico",
        "/api/cards?rows=0",
        "/{token}",
        "/{token}x/",
        "/{short}/",
        "/x/../{token}/",
        "/{token}/..",
        "/{token}/../",
        "/{token}/../../etc/passwd",
        "/{token}/%2e%2e/run.json",
        "/{token}/..%2frun.json",
        "/{token}/run.json",
        "/{token}/scores",
        "/{token}/picture/0.png",
        "/{token}//etc/passwd",
        "/{token}/api",
        "/{token}/api/",
        "/{token}/api/cards/",
        "/{token};/",
        "/\xff/",
        "http://127.0.0.1/{token}/",
        "http://[/{token}/",
        "http://[::1]]/x",
        "http://a\xbd/x",
        "x/{token}/",
        "?/{token}/",
    ],
)
def test_nothing_else_has_an_address(server: Server, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = path.format(token=server.token, short=server.token[:-1])
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=60) as stream:
        host = f"127.0.0.1:{server.server_address[1]}"
        stream.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
        with http.client.HTTPResponse(stream) as answer:
            answer.begin()
            assert answer.status == 404
            assert json.loads(answer.read()) == {"error": "there is nothing here"}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", ""]
)
def test_a_request_to_another_host_is_refused(server: Server, ask: Ask, host: str) -> None:
    told = ask(headers={"Host": host.format(port=server.server_address[1])})
    assert told.status == 403
    assert "another host" in told.error


def test_the_two_names_of_this_machine_are_its_own(server: Server, ask: Ask) -> None:
    for name in ("127.0.0.1", "localhost"):
        assert ask(headers={"Host": f"{name}:{server.server_address[1]}"}).status == 200


@pytest.mark.parametrize("hosts", [0, 2])
def test_a_request_names_one_host(server: Server, hosts: int) -> None:
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=60) as stream:
        line = f"Host: 127.0.0.1:{server.server_address[1]}\r\n"
        stream.sendall(f"GET /{server.token}/ HTTP/1.1\r\n{line * hosts}\r\n".encode())
        assert stream.recv(1000).startswith(b"HTTP/1.1 403 ")


def test_a_page_of_another_site_cannot_ask(server: Server, ask: Ask) -> None:
    body = {"below": {}, "above": {}}
    for origin in ("https://evil.example", "null", f"https://127.0.0.1:{server.server_address[1]}"):
        assert ask("api/count", body=body, headers={"Origin": origin}).status == 403
    assert ask("api/count", body=body, headers={"Origin": server.url.rsplit("/", 2)[0]}).status == 200


def test_only_the_methods_of_an_address_are_answered(ask: Ask) -> None:
    assert ask("api/count").status == 405
    for path in ("", "api/cards", "api/order", "picture"):
        assert ask(path, body={}).status == 405
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"):
        assert "Unsupported method" in ask(method=method).error
    assert ask(method="HEAD").status == 501


def test_what_is_no_http_is_refused(server: Server) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET " + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=60) as stream:
            stream.sendall(sent)
            told = stream.recv(65536)
            assert b"Traceback" not in told
            assert b"<html" not in told.lower()


# ---------------------------------------------------------------- counts


def both(**levels: Any) -> dict[str, Any]:
    return {"below": {}, "above": {}} | levels


def test_without_a_threshold_every_readable_record_stays(ask: Ask) -> None:
    for body in (both(), {}):
        told = ask("api/count", body=body).json
        assert {key: told[key] for key in ("kept", "dropped", "unreadable")} == {
            "kept": N - 1,
            "dropped": 0,
            "unreadable": 1,
        }
        assert sum(task["total"] for task in told["tasks"]) == N - 1
        assert all(task["kept"] == task["total"] for task in told["tasks"])


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ({"image_readability": "0.5"}, {}),
        ({"image_readability": 0.5}, {}),
        ({}, {"text_readability": "-1.25"}),
        ({"image_readability": "0.4", "text_readability": "0"}, {"image_readability": "9e-1"}),
        ({"image_readability": "2"}, {}),
        ({"image_readability": "-1e300"}, {}),
    ],
)
def test_the_count_is_that_of_the_command(
    run: Run, ask: Ask, below: Any, above: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ask("api/count", body=both(below=below, above=above)).json
    command = ["filter", str(run.path), "--dry-run", "--no-principles", "--json"]
    for option, levels in (("--drop-below", below), ("--drop-above", above)):
        for name, level in levels.items():
            command += [option, f"{name}={level}"]
    cli(command, standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    assert {name: told[name] for name in ("kept", "dropped", "unreadable")} == printed["counts"]
    kept = filtered(run, dry_run=True, drop_below=below, drop_above=above).mask
    scores = run.scores
    assert {
        t["label"].replace("\x01", "[").replace("\x02", "]"): (t["kept"], t["total"]) for t in told["tasks"]
    } == {
        task.replace("\u202e", "[U+202E]").replace("\x1b", "[U+001B]"): (
            int((kept & (scores["task"] == task)).sum()),
            int((scores["task"] == task).sum()),
        )
        for task in scores["task"].dropna().unique()
    }


def test_tasks_are_those_of_the_page(server: Server, ask: Ask) -> None:
    meta = re.search(rb'<script type="application/json" id="meta">(.*?)</script>', server.page, re.DOTALL)
    assert meta is not None
    shown = [(task["label"], task["n"]) for task in json.loads(meta[1])["tasks"]]
    assert shown == [(t["label"], t["total"]) for t in ask("api/count", body={}).json["tasks"]]


def test_beyond_254_tasks_the_smaller_ones_are_one() -> None:
    names = [f"task {i:03}" for i in range(300) for _ in range(300 - i)] + [None]
    table = pa.table({"task": names})
    run: Any = SimpleNamespace(table=table.select, take=lambda _: table.slice(0, 0))
    tasks, places = read_tasks(run, np.arange(len(names)))
    assert len(tasks) == 254
    assert tasks[0] == {"label": "task 000", "n": 300}
    assert tasks[-1] == {"label": "other tasks", "n": sum(300 - i for i in range(253, 300))}
    counts = np.bincount(places)
    assert counts[:254].tolist() == [task["n"] for task in tasks]
    assert counts[255] == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (both(below={"image_readabilty": 1}), "did you mean image_readability"),
        (both(below={"n_turns": 1}), "no metric"),
        (both(above={"state": 1}), "no metric"),
        (both(below={"image_readability": "p10"}), "finite number"),
        (both(below={"image_readability": "nan"}), "finite number"),
        (both(below={"image_readability": 10**400}), "finite number"),
        (both(below={"image_readability": True}), "finite number"),
        (both(below={"image_readability": None}), "finite number"),
        (both(below={"image_readability": [1]}), "finite number"),
        (both(below=[]), "expected an object"),
        (both(where="1 == 1"), "expected {"),
        ([], "expected {"),
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 60_000, "no JSON"),
        (b'{"below": {"image_readability": Infinity}}', "finite number"),
        (b'{"below": {"image_readability": 1e999}}', "finite number"),
        (b'{"below": {"image_readability": ' + b"9" * 5000 + b"}}", ""),
    ],
)
def test_a_wrong_count_is_refused_in_words(ask: Ask, body: Any, told: str) -> None:
    answer = ask("api/count", body=body)
    assert answer.status == 400
    assert told in answer.error


def test_a_body_is_json_of_a_length_within_bounds(ask: Ask) -> None:
    assert ask("api/count", body=b" " * (MAX_BODY - 2) + b"{}").status == 200
    assert ask("api/count", body=b" " * MAX_BODY + b"{}").status == 413
    assert (
        ask(
            "api/count", method="POST", headers={"Content-Type": "application/json", "Content-Length": "-1"}
        ).status
        == 411
    )
    chunked = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    assert ask("api/count", method="POST", headers=chunked).status == 411
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert ask("api/count", body={}, headers={"Content-Type": kind}).status == 415


# ---------------------------------------------------------------- orders


def all_rows(ask: Ask, limit: int = 7, **query: Any) -> list[int]:
    """Every page of an order, one after another."""
    found: list[int] = []
    while True:
        told = ask("api/order", offset=len(found), limit=limit, **query).json
        found += told["rows"]
        if not told["rows"]:
            assert len(found) == told["total"]
            return found


@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize("at", ["0.5", "0.77", "-3", "7"])
def test_orders_are_those_of_numpy(run: Run, ask: Ask, side: str, at: str) -> None:
    scores = run.scores.dropna(subset="image_readability").sort_values("image_readability", kind="stable")
    values, rows = scores["image_readability"].to_numpy(), scores["row"].tolist()
    beyond = values < float(at) if side == "below" else values > float(at)
    ascending = all_rows(ask, metric="image_readability", order="worst", side="below")
    assert ascending == rows == all_rows(ask, metric="image_readability", order="worst")
    assert all_rows(ask, metric="image_readability", order="worst", side="above") == rows[::-1]
    dropped = all_rows(ask, metric="image_readability", order="dropped", side=side, at=at)
    assert (
        dropped
        == [row for row, goes in zip(rows, beyond, strict=True) if goes][:: 1 if side == "below" else -1]
    )
    closest = all_rows(ask, metric="image_readability", order="closest", side=side, at=at)
    assert closest == in_turn(values, np.array(rows), side, float(at))


def in_turn(values: Any, rows: Any, side: str, at: float) -> list[int]:
    """The slow way: each side by its distance from the threshold, then one of each until both are used up."""
    goes = values < at if side == "below" else values > at
    sides = []
    for mask in (goes, ~goes):
        found = list(rows[mask])
        # The lower of the two sides is nearest to the threshold at its end.
        sides.append(found[::-1] if (mask is goes) == (side == "below") else found)
    first, second = sides
    both = [row for pair in zip(first, second, strict=False) for row in pair]
    shared = min(len(first), len(second))
    return [int(row) for row in [*both, *first[shared:], *second[shared:]]]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]), max_size=12),
    st.sampled_from([-1.0, 0.0, 0.7, 1.0, 2.0, 3.0]),
    st.sampled_from(["below", "above"]),
    st.integers(1, 5),
)
def test_the_closest_calls_are_every_record_once_and_nearest_first(
    values: list[float], at: float, side: str, limit: int
) -> None:
    ascending = np.sort(np.array(values, np.float64))
    found = Sorted(ascending, np.arange(len(values), dtype=np.uint32))
    pages = [
        found.closest(side, at, offset, limit).tolist() for offset in range(0, len(values) + limit, limit)
    ]
    rows = [row for page in pages for row in page]
    assert sorted(rows) == list(range(len(values)))
    goes = [ascending[row] < at if side == "below" else ascending[row] > at for row in rows]
    shared = min(sum(goes), len(goes) - sum(goes))
    assert goes[: 2 * shared] == [True, False] * shared
    for wanted in (True, False):
        distances = [abs(ascending[row] - at) for row, gone in zip(rows, goes, strict=True) if gone == wanted]
        assert distances == sorted(distances)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"metric": "image_readability"}, "lacks order"),
        ({"metric": "image_readabilit", "order": "worst"}, "did you mean image_readability"),
        ({"metric": "state", "order": "worst"}, "no metric"),
        ({"metric": EVIL, "order": "worst"}, "no metric"),
        ({"metric": "image_readability", "order": "best"}, "no order"),
        ({"metric": "image_readability", "order": "worst", "side": "left"}, "no side"),
        ({"metric": "image_readability", "order": "closest"}, "side and at"),
        ({"metric": "image_readability", "order": "dropped", "side": "below"}, "side and at"),
        ({"metric": "image_readability", "order": "dropped", "side": "below", "at": "inf"}, "finite"),
        ({"metric": "image_readability", "order": "worst", "offset": "-1"}, "offset"),
        ({"metric": "image_readability", "order": "worst", "limit": "101"}, "limit"),
        ({"metric": "image_readability", "order": "worst", "limit": "9" * 5000}, "limit"),
        ({"metric": "image_readability", "order": "worst", "file": "/etc/passwd"}, "no parameter"),
    ],
)
def test_a_wrong_order_is_refused_in_words(ask: Ask, query: dict[str, str], told: str) -> None:
    answer = ask("api/order", **query)
    assert answer.status == 400
    assert told in answer.error
    assert "\u202e" not in answer.error
    assert "\x1b" not in answer.error


# ---------------------------------------------------------------- cards and pictures


def test_cards_come_in_the_order_asked_for(run: Run, ask: Ask) -> None:
    rows = [HOSTILE, 0, BROKEN, TWO_PICTURES, TEXT_ONLY, MISSING, N - 1]
    cards = ask("api/cards", rows=",".join(map(str, rows))).json
    assert [card["row"] for card in cards] == rows
    by_row = {card["row"]: card for card in cards}
    assert by_row[0]["turns"][0][0].endswith("What can be seen in picture number 0?")
    assert by_row[0]["values"]["image_readability"] == run.scores["image_readability"][0]
    assert by_row[BROKEN]["state"] == "unreadable"
    assert by_row[BROKEN]["fault"]
    assert len(by_row[TWO_PICTURES]["pictures"]) == 2
    assert by_row[TEXT_ONLY]["pictures"] == []
    assert "missing" in by_row[MISSING]["pictures"][0]["fault"]
    assert "\u202e" not in json.dumps(by_row[HOSTILE], ensure_ascii=False)


@pytest.mark.parametrize("rows", ["", "x", "-1", "1,", "0x1", "1.0", "１", " 1", "0" * 20])
def test_rows_are_whole_numbers(ask: Ask, rows: str) -> None:
    assert ask("api/cards", rows=rows).status == 400


def test_rows_that_there_are_not(ask: Ask) -> None:
    assert "there is no row 40; the last is 39" in ask("api/cards", rows=f"1,{N}").error
    assert ask("picture", row=N, k=0).status == 404
    assert ask("api/cards", rows=",".join(["1"] * MAX_ROWS)).status == 200
    assert ask("api/cards", rows=",".join(["1"] * (MAX_ROWS + 1))).status == 400
    assert ask("api/cards?rows=1&rows=2").status == 400
    assert ask("api/cards?" + "&".join(f"a{i}=1" for i in range(20))).status == 400


def test_pictures_are_small_jpegs(ask: Ask) -> None:
    for row, k, size in ((0, 0, (48, 48)), (TWO_PICTURES, 1, (48, 48)), (LARGE, 0, (320, 213))):
        told = ask("picture", row=row, k=k)
        assert told.status == 200
        assert told.headers["Content-Type"] == "image/jpeg"
        with PIL.Image.open(io.BytesIO(told.body)) as shown:
            assert (shown.format, shown.size) == ("JPEG", size)


def test_a_picture_that_there_is_not_says_why(ask: Ask) -> None:
    assert "missing: nowhere.png" in ask("picture", row=MISSING, k=0).error
    for row, k in ((0, 1), (TEXT_ONLY, 0), (BROKEN, 0), (TWO_PICTURES, 2)):
        told = ask("picture", row=row, k=k)
        assert told.status == 404
        assert told.error == f"row {row} has no picture {k}"
    assert ask("picture", row="../0", k=0).status == 400
    assert ask("picture", row=0).status == 400


def test_many_may_ask_at_once(ask: Ask) -> None:
    def one(i: int) -> bool:
        row = i % N
        if i % 3 == 0:
            return bool(ask("api/cards", rows=row).json[0]["row"] == row)
        if i % 3 == 1:
            return ask("picture", row=row, k=0).status == (
                404 if row in (BROKEN, TEXT_ONLY, MISSING) else 200
            )
        return ask("api/count", body=both(below={"image_readability": i / 100})).status == 200

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(90)))


def test_one_connection_serves_many_requests(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    for row in (0, 1, 2):
        connection.request("GET", f"/{server.token}/api/cards?rows={row}")
        assert json.loads(connection.getresponse().read())[0]["row"] == row
    sock = connection.sock
    connection.request("POST", f"/{server.token}/api/count", b"{}", {"Content-Type": "application/json"})
    assert connection.getresponse().read()
    assert connection.sock is sock
    connection.close()


def test_an_input_that_has_changed_is_told_of(run: Run, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(run.path, copied)
    told = json.loads((copied / "run.json").read_text())
    told["input"]["files"][0]["bytes"] += 1
    (copied / "run.json").write_text(json.dumps(told))
    review = serve.Review(Run.open(copied))
    assert "has changed since" in review.cards([0])[0]["fault"]
    with pytest.raises(vlitqc.errors.InputError, match="has changed since"):
        review.picture(0, 0)


def test_a_defect_of_ours_is_no_answer(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("\x1b[31m\u202e")

    monkeypatch.setattr(server.review, "cards", broken)
    told = ask("api/cards", rows=1)
    assert told.status == 500
    assert "ZeroDivisionError" not in told.error
    printed = capsys.readouterr().err
    assert "ZeroDivisionError" in printed
    assert "\x1b" not in printed
    assert "\u202e" not in printed


# ---------------------------------------------------------------- beginning and end


def test_a_port_in_use_is_said_with_the_cure(server: Server, run: Run) -> None:
    port = server.server_address[1]
    with pytest.raises(UsageError, match=rf"port {port} cannot be used .*--port"):
        Server(run, port=port)


def test_each_server_has_a_token_of_its_own(run: Run) -> None:
    with Server(run) as one, Server(run) as other:
        assert one.token != other.token


@pytest.mark.parametrize("moved", [True, False])
def test_without_its_input_nothing_is_served(
    make_data: Callable[..., Path], texts: str, capsys: pytest.CaptureFixture[str], *, moved: bool
) -> None:
    path = make_data(3)
    run = vlitqc.score(path, texts, report=False)
    if moved:
        path.rename(path.with_name("elsewhere.jsonl"))
    else:
        path.write_text(path.read_text().replace("r1", "r9"))
    told = "no longer there" if moved else "has changed since it was scored"
    with pytest.raises(InputError, match=told):
        cli.main(["report", str(run.path), "--serve", "--no-open"], standalone_mode=False)
    assert capsys.readouterr().out == ""


def test_ctrl_c_ends_the_command_cleanly(run: Run) -> None:
    command = [sys.executable, "-m", "vlitqc", "report", str(run.path), "--serve", "--no-open"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline().strip() for _ in range(3)]
        with urllib.request.urlopen(lines[1], timeout=60) as page:
            assert page.status == 200
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert lines[0] == f"{run.path} is served at"
    assert lines[2] == "Ctrl-C ends it"
    assert (child.returncode, out, err) == (0, "", "preparing the page\nended\n")
