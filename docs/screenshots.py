"""Takes the pictures of README: the dashboard behind its guard, and a report, of a study in a storage.

    python -m docs.screenshots sqlite:///hpo.db quickstart

It takes a Chromium, Debian's or the one that BROWSER_PATH names, and playwright.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from hpo.report.html import as_html
from hpo.report.report import read_report
from hpo.storage.backends import open_storage

FOLDER = Path(__file__).parent / "figures"
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 860}
PATIENCE_MILLISECONDS = 3000  # for what is drawn after the page has loaded


def main(url: str, study: str) -> None:
    """Writes the pictures into docs/figures."""
    chromium = os.environ.get("BROWSER_PATH") or shutil.which("chromium") or shutil.which("chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / f"{study}.html"
            page.write_text(as_html(read_report(open_storage(url), study)), encoding="utf-8")
            shoot(browser, page.as_uri(), "report", DESKTOP, whole=True)
            shoot(browser, page.as_uri(), "report_phone", PHONE)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command = [sys.executable, "-m", "hpo", "dashboard", "--storage", url, "--port", port]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HPO_DASHBOARD")}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean) as server:
            try:
                assert server.stdout is not None
                shoot(browser, server.stdout.readline().split()[-1], "dashboard", DESKTOP, study=study)
            finally:
                server.terminate()
        browser.close()


def shoot(
    browser: Browser, address: str, name: str, size: dict[str, int], *, whole: bool = False, study: str = ""
) -> None:
    """Writes a picture of a page; of the dashboard, of one study's page there."""
    with browser.new_context(viewport=size) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(address)
        if study:
            page.wait_for_url("**/dashboard/")
            known = page.request.get(f"{page.url}../api/studies").json()["study_summaries"]
            number = next(one["study_id"] for one in known if one["study_name"] == study)
            page.goto(f"{page.url}studies/{number}")
        page.wait_for_timeout(PATIENCE_MILLISECONDS)
        page.screenshot(path=FOLDER / f"{name}.png", full_page=whole)


if __name__ == "__main__":
    main(*sys.argv[1:])
