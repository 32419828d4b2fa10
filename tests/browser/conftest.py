"""A real browser for the tests of the page: Debian's Chromium, driven by Playwright.

Chromium is the program that VLITQC_CHROMIUM names, or the first one installed. Without one these tests are skipped;
with VLITQC_REQUIRE_BROWSER=1 they fail. Playwright's own browser is not used and nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Page,
    Request,
    TimeoutError,
    expect,
    sync_playwright,
)

from vlitqc.engine.run import Run
from vlitqc_reports.html import write_report
from vlitqc_reports.serve import Server

from .rest import PATIENCE

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
INSIDE = ("file", "data", "blob", "about")
"""The schemes of what needs no host."""
DRIVER = "GL Driver Message (OpenGL, Performance"
"""What a machine without a GPU says of its own slowness."""

expect.set_options(timeout=PATIENCE)

PageOf = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that drives the browser gets a second try.

    Chromium is a dozen processes, any of which can stall on a loaded machine for longer than anything is waited
    for. The summary tells of each second try, and a test that fails twice fails.
    """
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is."""
    found = os.environ.get("VLITQC_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        missing = f"none of {', '.join(PROGRAMS)} is installed, and VLITQC_CHROMIUM names no other"
        if os.environ.get("VLITQC_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    """One Chromium for all tests of this folder; each opens a context of its own, which knows nothing of the others.

    It is closed before any other test: while Playwright runs, no other event loop can run in its thread.
    """
    # Chromium's sandbox refuses to start as root, as in most containers.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    # WebGL without a graphics card; otherwise Chromium warns of each picture that it reads back.
    arguments += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments, timeout=4 * PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def page_at(browser: Browser) -> Iterator[PageOf]:
    """``page_at(url, viewport=(1440, 900), dark=False, script=True)`` opens a page and waits until it is ready.

    At the end the test fails for every warning and error of the console, every uncaught exception, and every request
    to another host than that of the URL; a page of a file has none.
    """
    contexts = []
    faults: list[str] = []

    def open_page(
        url: str,
        *,
        viewport: tuple[int, int] = (1440, 900),
        dark: bool = False,
        script: bool = True,
        **context_options: Any,
    ) -> Page:
        own = urlsplit(url)

        def console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and DRIVER not in message.text:
                faults.append(f"console {message.type}: {message.text}")

        def request(asked: Request) -> None:
            to = urlsplit(asked.url)
            if to.scheme not in INSIDE and (to.scheme, to.netloc) != (own.scheme, own.netloc):
                faults.append(f"request: {asked.url}")

        def uncaught(error: Error) -> None:
            faults.append(f"uncaught: {error.stack or error.message}")

        context = browser.new_context(
            viewport={"width": viewport[0], "height": viewport[1]},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
            # A click that meets a page on its way to somewhere is lost on a busy machine.
            **{"reduced_motion": "reduce", **context_options},
        )
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        context.on("console", console)
        context.on("request", request)
        # No test may hang on a host or tell one anything; the request has been counted.
        context.route(
            re.compile(r"^(?!file:|data:|blob:|about:|" + re.escape(f"{own.scheme}://{own.netloc}/") + ")"),
            lambda route: route.abort(),
        )
        page = context.new_page()
        page.on("pageerror", uncaught)
        page.goto(url)
        if script:
            try:
                page.wait_for_selector("html[data-ready]", state="attached")
            except TimeoutError:
                pytest.fail("\n".join(["the page was not ready in time", *faults]))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, "\n".join(dict.fromkeys(faults))


@pytest.fixture(scope="session")
def report_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``report_of(run, **options)``: the page of a run, written once for each set of options."""
    written: dict[tuple[str, str], Path] = {}

    def write(run: Run, **options: Any) -> Path:
        key = (str(run.path), repr(sorted(options.items())))
        if key not in written:
            out = tmp_path_factory.mktemp("page") / ("report" if options.get("folder") else "report.html")
            written[key] = write_report(run, out, **options)
        return written[key]

    return write


@pytest.fixture
def page_of(page_at: PageOf, report_of: Callable[..., Path]) -> PageOf:
    """``page_of(run, viewport=(1440, 900), dark=False, script=True, **report_options)``: the page of a run, opened
    from its file by ``page_at``."""

    def open_report(
        run: Run,
        *,
        viewport: tuple[int, int] = (1440, 900),
        dark: bool = False,
        script: bool = True,
        **report_options: Any,
    ) -> Page:
        page = report_of(run, **report_options)
        return page_at(page.as_uri(), viewport=viewport, dark=dark, script=script)

    return open_report


@pytest.fixture
def served_page_of(page_at: PageOf) -> Iterator[PageOf]:
    """``served_page_of(run, viewport=(1440, 900), dark=False)``: the page of a run from a server of its own."""
    servers: list[Server] = []
    pages: list[Page] = []

    def open_served(run: Run, **context_options: Any) -> Page:
        server = Server(run)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pages.append(page_at(server.url, **context_options))
        return pages[-1]

    yield open_served
    # A page that still asks when its server is gone says so on the console.
    for page in pages:
        page.goto("about:blank")
    for server in servers:
        server.shutdown()
        server.server_close()
