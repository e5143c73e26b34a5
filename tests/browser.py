"""A browser for tests: Debian's `chromium` or `chromium-headless-shell`, or one that BROWSER_PATH names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = os.environ.get("BROWSER_PATH") or shutil.which("chromium") or shutil.which("chromium-headless-shell")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Debian's chromium, or another that BROWSER_PATH names"
)


@contextmanager
def launched() -> Iterator[Browser]:
    """Context manager in which a browser runs."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Watched:
    """A page, and what went wrong on it: errors, and requests to other places than `home`."""

    def __init__(self, context: BrowserContext, home: str) -> None:
        self.page: Page = context.new_page()
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("request", lambda asked: None if asked.url.startswith(home) else self.wrong.append(asked.url))
