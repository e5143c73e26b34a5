"""What a person sees in a browser: the dashboard behind its guard, and a report.

They need a Chromium: Debian's `chromium` or `chromium-headless-shell`, or one that BROWSER_PATH names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna_dashboard import save_note
from playwright.sync_api import Browser, BrowserContext, expect

from hpo.analysis.ledger import read_ledger
from hpo.dashboard.note import note_study, study_note
from hpo.report.html import as_html
from hpo.report.report import Report, read_report
from hpo.storage.artifacts import attach
from hpo.storage.backends import open_storage
from tests.analysis.test_confirmation import add, confirm
from tests.browser import Watched, launched, needs_chromium
from tests.conftest import LISTED_STUDY, SMALL_STUDY, card_of, create, defined
from tests.program import free_port
from tests.report.test_sections import prune
from tests.started import Started

EVIL = '<b>x</b> <a href="https://example.org">y</a> `z` $a$ *e* [l](https://example.org) &amp;'
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> RDBStorage:
    """The small study with 21 finished trials and a pruned one, its note, and a file."""
    folder = tmp_path_factory.mktemp("searched")
    opened = open_storage(f"sqlite:///{folder}/hpo.db", create=True)
    create(opened, "small", defined(SMALL_STUDY, "small"), 30)
    for i in range(21):
        add(opened, "small", 0.01 * (i + 1), [2 + i / 10, 3 + i / 10, 2.5 + i / 10], seconds=1.0)
    prune(opened, 0.9, {"1": [80.0, 82.0]})
    note_study(opened, "small")
    (folder / "evil.html").write_text("<script>document.title = 'run'</script>")
    attach(opened, "small", folder / "evil.html")
    return opened


LINES = """[...document.querySelectorAll("#parallel .scatterlayer .trace")].map((trace) => [
  getComputedStyle(trace.querySelector(".js-line")).stroke, Number(getComputedStyle(trace).opacity),
  getComputedStyle(document.body).backgroundColor])"""
COLUMNS = """new Set([...document.querySelectorAll("#parallel ~ section")].map(
  (one) => one.getBoundingClientRect().left)).size"""


def contrast(ink: str, opacity: float, paper: str) -> float:
    """Returns WCAG's contrast of a line with its paper."""
    light = []
    inks, papers = ([int(part) for part in re.findall(r"\d+", colour)[:3]] for colour in (ink, paper))
    for channels in ([opacity * i + (1 - opacity) * p for i, p in zip(inks, papers, strict=True)], papers):
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(light) / min(light)


@pytest.fixture(scope="module")
def confirmed(searched: RDBStorage) -> Report:
    """The report of the study, whose best were confirmed."""
    confirm(searched)
    return read_report(searched, "small")


@pytest.mark.parametrize(  # the size has no say in colours, nor the scheme in places
    ("size", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")], ids=["phone, dark", "desktop, light"]
)
def test_a_report_is_read_on_any_screen_and_asks_for_nothing(
    browser: Browser, confirmed: Report, tmp_path: Path, size: dict[str, int], scheme: str
) -> None:
    file = tmp_path / "small.html"
    file.write_text(as_html(confirmed), encoding="utf-8")
    with browser.new_context(viewport=size, color_scheme=scheme, offline=True) as context:  # type: ignore[arg-type]
        watched = Watched(context, file.as_uri())
        watched.page.goto(file.as_uri())
        expect(watched.page.locator(".headline")).to_contain_text("Lowest test error by recognition: 2.50 ± 0.50 %")
        expect(watched.page.locator(".main-svg").first).to_be_visible()
        drawn = watched.page.locator(".figure:has(.main-svg)").count()
        assert drawn == len([section for section in confirmed.sections if section.figure is not None])
        width, fits = watched.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= fits  # nothing scrolls sideways
        ink = watched.page.evaluate("getComputedStyle(document.body).color")
        assert ink == ("rgb(27, 27, 27)" if scheme == "light" else "rgb(232, 232, 232)")
        title = watched.page.locator("#history .xtitle").evaluate("text => getComputedStyle(text).fill")
        assert title == ink
        faintest = min(contrast(*line) for line in watched.page.evaluate(LINES))
        assert faintest > (1.6 if scheme == "light" else 2.5)
        columns = watched.page.evaluate(COLUMNS)
        assert columns == (1 if size is PHONE else 2)  # none is left empty below the wide figure
        watched.page.emulate_media(media="print")
        assert watched.page.pdf().startswith(b"%PDF")
        assert watched.wrong == []


def test_a_label_is_shown_as_it_stands_in_every_figure_and_table(browser: Browser, tmp_path: Path) -> None:
    opened, label = open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True), f"FNN {EVIL}"
    table = {**LISTED_STUDY, "trial": [{**LISTED_STUDY["trial"][0], "label": label}, LISTED_STUDY["trial"][1]]}
    create(opened, EVIL, defined({**table, "title": EVIL}, name="listed"), 2)
    for slot in range(2):
        errors = [9.0, 9.5, 10.5]
        add(opened, EVIL, 0.1, errors, slot=slot, errors_recognition=errors, errors_head=errors)
    file = tmp_path / "listed.html"
    file.write_text(as_html(read_report(opened, EVIL)), encoding="utf-8")
    with browser.new_context(viewport=DESKTOP, offline=True) as context:  # type: ignore[arg-type]
        watched = Watched(context, file.as_uri())
        watched.page.goto(file.as_uri())
        expect(watched.page.locator("#errors .xtick text").first).to_have_text(label)
        expect(watched.page.locator("#published td").first).to_have_text(label)
        expect(watched.page.locator("h1")).to_have_text(f"{EVIL} {EVIL}")
        assert watched.page.locator("a, b, img").count() == 0
        assert watched.wrong == []


@pytest.fixture(scope="module")
def dashboard(searched: RDBStorage) -> Iterator[str]:
    """The link that `hpo dashboard` prints, of the storage in which every test has a study of its own."""
    port, folder = str(free_port()), Path(searched.url.partition("///")[2]).parent
    with Started("dashboard", "--port", port, folder=folder) as server:
        yield server.stdout.readline().split()[-1]
        server.terminate()


@pytest.fixture(scope="module")
def home(dashboard: str) -> str:
    """Its address."""
    return dashboard.partition("/dashboard/")[0]


@pytest.fixture(scope="module")
def inside(browser: Browser, dashboard: str) -> Iterator[BrowserContext]:
    """Where the link was followed already."""
    with browser.new_context(viewport=DESKTOP, accept_downloads=True) as context:  # type: ignore[arg-type]
        assert context.request.get(dashboard).ok
        yield context


def new_study(opened: RDBStorage, name: str) -> int:
    """Creates a study, and returns the number by which the dashboard knows it."""
    create(opened, name, defined(SMALL_STUDY, name), 30)
    return opened.get_study_id_from_name(name)


def test_a_note_shows_its_title_as_it_stands(inside: BrowserContext, home: str, searched: RDBStorage) -> None:
    definition = defined({**LISTED_STUDY, "title": EVIL}, name="listed")
    number = new_study(searched, "noted")
    text = study_note(EVIL, definition, card_of(definition), read_ledger(searched, "noted"))
    save_note(optuna.load_study(study_name="noted", storage=searched), text)
    page = Watched(inside, home).page
    page.goto(f"{home}/dashboard/studies/{number}/note")
    expect(page.get_by_role("heading", name=EVIL)).to_be_visible(timeout=20_000)
    pasted = EVIL.replace("`", r"\x60")  # a backtick would end the note's code
    expect(page.get_by_text(f"hpo compare $'{pasted}'")).to_be_visible()
    assert page.locator("main b, main img, main em").count() == 0
    for link in page.locator('a[href*="example"]').all():  # the dashboard makes links of addresses
        assert (link.text_content() or "").startswith("https://example.org")
    page.close()


def test_the_dashboard_shows_a_new_trial_without_being_reloaded(
    browser: Browser, dashboard: str, home: str, searched: RDBStorage
) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 2000}) as context:  # the list draws what is in sight
        watched = Watched(context, home)
        watched.page.goto(dashboard)
        watched.page.wait_for_url(f"{home}/dashboard/")  # without the token
        expect(watched.page.get_by_text("small").first).to_be_visible(timeout=20_000)
        watched.page.goto(f"{home}/dashboard/studies/1/trials")
        trial = watched.page.get_by_role("button")
        expect(trial.filter(has_text="Trial 21")).to_be_visible(timeout=20_000)
        expect(trial.filter(has_text="Trial 22")).to_have_count(0)
        add(searched, "small", 0.5, [1.0, 1.5, 2.0])
        expect(trial.filter(has_text="Trial 22")).to_be_visible(timeout=30_000)
        assert watched.wrong == []


def test_a_trial_with_long_attributes_is_no_wider_than_the_window(
    inside: BrowserContext, home: str, searched: RDBStorage
) -> None:
    curve = {str(epoch): [2.3 + i / 10 for i in range(30)] for epoch in range(9)}
    number = new_study(searched, "long")
    add(searched, "long", 0.5, [1.0, 1.5, 2.0], errors_by_step=curve, file="/a/path/without/blanks" * 20)
    page = Watched(inside, home).page
    page.goto(f"{home}/dashboard/studies/{number}/trials?numbers=0")
    expect(page.get_by_text("errors_by_step").first).to_be_visible(timeout=20_000)
    width, fits = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= fits
    page.close()


def test_a_study_opens_with_its_note_and_its_files_run_nothing(inside: BrowserContext, home: str) -> None:
    page = Watched(inside, home).page
    page.goto(f"{home}/dashboard/studies/1/note")
    expect(page.get_by_text("How to read it.").first).to_be_visible(timeout=20_000)
    study = page.request.get(f"{home}/api/studies/1").json()
    (artifact,) = study["artifacts"]
    with page.expect_download() as download:
        page.evaluate("path => { location.href = path }", f"{home}/artifacts/1/{artifact['artifact_id']}")
    assert "<script>" in Path(download.value.path()).read_text()
    assert page.title() != "run"
    page.close()


def test_without_the_link_a_browser_sees_nothing(browser: Browser, home: str) -> None:
    with browser.new_context() as context:
        answer = context.new_page().goto(f"{home}/dashboard/")
        assert answer is not None
        assert answer.status == 401
