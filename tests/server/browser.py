"""A real browser: the machine's Chromium without a window, driven by Playwright; and pages for it of an origin of their own.

Best is Debian's headless shell, the same engine without all that a window has around its page: it takes half of the processor.
Without Chromium a test is skipped; in CI that is a failure, and `bin/setup dev` installs it.
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from facts import PATIENCE_S
from npm_packages import NPM, missing
from playwright.async_api import Browser, async_playwright

HTML = """<!doctype html><html><head><meta charset="utf-8"><link rel="icon" href="data:,"></head>
<body><div id="page"></div><script type="module" src="page.js"></script></body></html>
"""

ELSEWHERE = "192.0.2.1"
"""This machine by an address that isn't loopback's: over plain HTTP a browser has less for its pages (no secure context)."""


NAMES = ("chromium-headless-shell", "chromium", "chromium-browser")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser, until the end of the block."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing("chromium is not installed")
    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-sync",
        f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
    ]  # root has no sandbox; a test asks nobody else
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=quiet, timeout=PATIENCE_S * 1000)
        try:
            yield browser
        finally:
            await browser.close()


def bundle(program: str, node_modules: Path, directory: Path) -> None:
    """Make a page of a program of `npm/` and the packages that it imports."""
    (directory / "index.html").write_text(HTML, encoding="utf-8")
    subprocess.run(
        [
            node_modules / ".bin" / "esbuild",
            NPM / program,
            "--bundle",
            "--format=esm",
            "--jsx=automatic",
            '--define:process.env.NODE_ENV="production"',
            f"--outfile={directory / 'page.js'}",
            "--external:node:*",  # what the client takes only where there is node
            "--log-level=warning",
        ],
        env={"PATH": os.environ["PATH"], "NODE_PATH": str(node_modules)},
        check=True,
    )


class Served:
    """A directory under an address of its own, on a thread."""

    def __init__(self, directory: Path) -> None:
        class Quiet(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(directory))  # pyright: ignore[reportArgumentType]

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
