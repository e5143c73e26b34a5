from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from playwright.sync_api import Browser, Page, ViewportSize, expect
from torch import Tensor, nn

from hpo import load_network
from hpo.errors import RequestError
from hpo.provenance import versions
from hpo.study.references import Sources
from hpo.study.task import Params
from hpo.tasks.digit_pairs.architectures import architectures
from hpo.tasks.digit_pairs.losses import probability
from hpo.tasks.digit_pairs.page import NO_DIGITS, NO_HEAD
from hpo.tasks.digit_pairs.pairs import read_images
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.training.ensembles import Averaged
from hpo.training.export import Normalised
from hpo.training.pages import check_page
from tests.browser import Watched, launched, needs_chromium
from tests.conftest import SMALL_STUDY, defined
from tests.program import hpo

EVIL = "</script><script>document.title = 'run'</script><img src=x onerror=alert(1)> ${1} {{ 2 }} \u2028"
CHAMPION = Path(__file__).parent.parent.parent / "docs" / "champion"
PHONE: ViewportSize = {"width": 360, "height": 740}
DESKTOP: ViewportSize = {"width": 1200, "height": 900}
MEAN, DEVIATION = 33.3, 72.5
TASK = DigitPairs(dataset="digits")
PARAMS: Params = {
    **{"architecture": "cnn_bn", "weight_sharing": True, "auxiliary_loss": True, "activation": "leaky_relu"},
    **{"optimizer": "adam", "learning_rate": 0.005},
}


def network_of(architecture: str, activation: str = "elu", *, weight_sharing: bool = True, **sizes: Any) -> nn.Module:
    """Returns a network whose norms have seen something, so that they do something."""
    torch.manual_seed(0)
    network = TASK.network(architecture, activation, weight_sharing, 0.7, **sizes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -1.0), (module.running_mean, -1.0)):
                nn.init.uniform_(tensor, low, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return network.eval()


def described(task: DigitPairs = TASK, **changed: Any) -> dict[str, Any]:
    return {
        **{"study": "small", "trial": 8, "params": PARAMS, "task": task.model_dump(mode="json"), "unit": "%"},
        "training": {"epochs": 3, "batch_size": 50},
        "protocol": {"rounds": 3, "metric": "recognition", "select_on": "test"},
        "rounds": [{"round": 2, "error": 2.5, "input_mean": MEAN, "input_deviation": DEVIATION}],
        "error": {"mean": 2.5, "std": None},
        "search": {"mean": 2.25, "std": 0.31, "errors": [2.5, 2.0, 2.3]},
        "confirmed": {"mean": 2.71, "low": 2.4, "high": 3.02, "rounds": 20},
        "versions": versions(),
        **changed,
    }


def page_of(network: nn.Module, task: DigitPairs = TASK, **changed: Any) -> str:
    return task.page(network).html(described(task, **changed))


CASES: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(network_of, name) for name in architectures()},
    **{f"{name}, apart": partial(network_of, name, weight_sharing=False) for name in architectures()},
    **{name: partial(network_of, "cnn", name) for name in ("relu", "leaky_relu", "selu", "silu")},
    "dropout": lambda: network_of("deep_cnn", width=6, depth=3, dropout=0.3),
    "an ensemble": lambda: Averaged(
        [network_of("cnn_bn"), network_of("cnn_bn", weight_sharing=False), network_of("residual", "relu")], TASK.average
    ),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as started:
        yield started


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens a page, offline; nothing may go wrong on it."""
    watching: list[Watched] = []
    file = tmp_path / "page.html"

    def opened(text: str, size: ViewportSize = DESKTOP, **how: Any) -> Page:
        file.write_text(text, encoding="utf-8")
        watching.append(Watched(browser.new_context(viewport=size, offline=True, **how), file.as_uri()))
        watching[-1].page.goto(file.as_uri())
        return watching[-1].page

    yield opened
    for watched in watching:
        assert watched.wrong == []
        watched.page.context.close()


def draw(page: Page, side: int, *points: tuple[float, float]) -> None:
    """Draws a stroke with the mouse, through points of 0 to 1."""
    paper = page.locator(".paper").nth(side)
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()
    assert box is not None
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y, steps=3)
    page.mouse.up()


@needs_chromium
@pytest.mark.parametrize("case", CASES)
def test_a_page_computes_what_pytorch_does(case: str, opened: Callable[..., Page]) -> None:
    network = CASES[case]()
    pixels = 255 * torch.rand(3, 2, 14, 14, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        comparison, digits = Normalised(network, MEAN, DEVIATION).eval()(pixels)
    page = opened(page_of(network))
    found = page.evaluate("pairs => pairs.map(([a, b]) => logitsOf(a, b))", pixels.flatten(2).tolist())
    np.testing.assert_allclose([one["comparison"] for one in found], comparison, atol=1e-3, rtol=1e-5)
    np.testing.assert_allclose([one["digits"] for one in found], digits, atol=1e-3, rtol=1e-5)
    assert digits.std() > 0.01


@needs_chromium
def test_the_champions_page_is_its_network(opened: Callable[..., Page]) -> None:
    """The one that docs/beyond.md shows: it answers as the file beside it does, and reads what its own buttons draw."""
    page = opened((CHAMPION / "champion.html").read_text(encoding="utf-8"))
    pixels = 255 * torch.rand(3, 2, 14, 14, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        comparison, digits = load_network(CHAMPION / "champion.safetensors")(pixels)
    found = page.evaluate("pairs => pairs.map(([a, b]) => logitsOf(a, b))", pixels.flatten(2).tolist())
    np.testing.assert_allclose([one["comparison"] for one in found], comparison, atol=1e-3, rtol=1e-4)
    np.testing.assert_allclose([one["digits"] for one in found], digits, atol=1e-3, rtol=1e-4)
    for first, second in zip(range(10), [*range(1, 10), 0], strict=True):
        for side, digit in enumerate((first, second)):
            page.locator(".paper").nth(side).focus()
            page.keyboard.press(str(digit))
        expect(page.locator(".reading .digit")).to_have_text([str(first), str(second)])
        expect(page.locator("#verdict")).to_have_text(re.compile("^Yes, " if first <= second else "^No, "))


@needs_chromium
def test_a_network_that_computes_no_numbers_gives_no_answer(opened: Callable[..., Page]) -> None:
    """As one that diverged in training."""
    network = network_of("cnn")
    with torch.no_grad():
        for numbers in network.parameters():
            numbers.fill_(float("nan"))
    page = opened(page_of(network))
    for example in page.locator(".example").all():
        example.click()
    expect(page.locator("#verdict")).to_have_text(re.compile("^No answer"))
    assert page.locator("#question").text_content() == "first ≤ second?"
    assert page.locator(".reading .digit").all_text_contents() == ["–", "–"]
    assert page.locator(".says").all_text_contents() == ["–"] * page.locator(".says").count()
    assert "NaN" not in str(page.locator("body").inner_text())


@needs_chromium
def test_the_answer_is_the_probability_of_both_readings(opened: Callable[..., Page]) -> None:
    first, second = torch.softmax(torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(0)), -1)
    page = opened(page_of(network_of("fnn")))
    found = page.evaluate("([a, b]) => a.map((_, i) => probability(a[i], b[i]))", [first.tolist(), second.tolist()])
    assert found == pytest.approx(probability(first, second).tolist(), abs=1e-6)


@needs_chromium
@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")], ids=["phone", "desktop"])
def test_what_is_drawn_is_answered_as_it_changes(opened: Callable[..., Page], size: ViewportSize, scheme: str) -> None:
    page = opened(page_of(network_of("cnn_bn")), size, color_scheme=scheme)
    verdict, digits = page.locator("#verdict"), page.locator(".reading .digit")
    expect(verdict).to_have_text("Draw two digits")
    draw(page, 0, (0.5, 0.2), (0.5, 0.8))
    expect(verdict).to_have_text("Draw the second one, too")
    expect(digits.nth(0)).to_have_text(re.compile(r"^\d$"))
    expect(digits.nth(1)).to_have_text("–")
    draw(page, 1, (0.2, 0.2), (0.8, 0.2), (0.5, 0.8))
    expect(verdict).to_have_text(re.compile(r"^(Yes|No), (more than )?[\d.]+ % sure$"))
    bars = page.locator(".reading").nth(1).locator(".percent")
    before = bars.all_inner_texts()
    draw(page, 1, (0.3, 0.5), (0.7, 0.5))
    expect(bars).not_to_have_text(before)
    expect(page.locator("#spoken")).to_have_text(re.compile(r"^\d ≤ \d\? (Yes|No), "))
    page.locator(".clear").nth(1).click()
    expect(verdict).to_have_text("Draw the second one, too")
    width, fits = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= fits  # nothing scrolls sideways


@needs_chromium
def test_a_finger_draws_and_the_keyboard_does(opened: Callable[..., Page]) -> None:
    page = opened(page_of(network_of("cnn")), PHONE, has_touch=True)
    paper = page.locator(".paper")
    box = paper.nth(0).bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + 50, box["y"] + 50)  # a dot
    expect(page.locator("#verdict")).to_have_text("Draw the second one, too")
    paper.nth(1).focus()
    page.keyboard.press("4")
    expect(page.locator("#verdict")).to_contain_text("sure")
    page.keyboard.press("Delete")
    expect(page.locator("#verdict")).to_have_text("Draw the second one, too")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Draw one
    expect(page.locator("#verdict")).to_contain_text("sure")
    page.locator("details").evaluate("details => details.open = true")
    width, fits = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= fits


@needs_chromium
def test_what_is_cleared_or_drawn_under_a_pen_stays_so(opened: Callable[..., Page]) -> None:
    """A pen that is down when a key is pressed goes on with nothing: there may be no stroke any more."""
    page = opened(page_of(network_of("fnn")))
    box = page.locator(".paper").nth(0).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for key, points in (("Delete", 0), ("1", 3)):
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 20, y, steps=3)
        page.keyboard.press(key)
        page.mouse.move(x, y + 40, steps=3)
        page.mouse.up()
        assert page.evaluate("drawings[0].strokes.flat().length") == points
    expect(page.locator("#verdict")).to_have_text("Draw the second one, too")


@needs_chromium
@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_a_drawing_is_made_as_the_dataset_is(dataset: Any, opened: Callable[..., Page]) -> None:
    page = opened(page_of(network_of("fnn"), DigitPairs(dataset=dataset)))
    drawn = page.evaluate("GLYPHS.map((_, digit) => Array.from(pictureOf(glyph(digit, () => 0))))")
    pictures = np.array(drawn).reshape(10, 14, 14)
    mean = 33.3 if dataset == "mnist" else read_images("digits", Path())[0].images.mean().item()
    assert pictures.mean() == pytest.approx(mean, rel=0.1)
    assert pictures.min() == 0
    assert pictures.max() <= (255 if dataset == "mnist" else 16)
    if dataset == "mnist":  # the centre of mass is in the middle, up to half a pixel of 28x28 where the box has room
        rows = (pictures.sum(2) * (np.arange(14) + 0.5)).sum(1) / pictures.sum((1, 2))
        assert np.abs(rows - 7).max() < 1
    smaller = page.evaluate("pictureOf(glyph(8, () => 0).map((s) => s.map(([x, y]) => [x / 3, y / 3])))")
    whole = page.evaluate("pictureOf(glyph(8, () => 0))")
    assert smaller == pytest.approx(whole, abs=4)  # however large it is drawn


@needs_chromium
def test_a_hostile_name_is_shown_as_it_stands(opened: Callable[..., Page]) -> None:
    params = {**PARAMS, EVIL: EVIL}
    page = opened(page_of(network_of("fnn"), study=EVIL, params=params))
    shown = EVIL.replace(" \u2028", " ").strip()
    expect(page.locator("dd").first).to_contain_text(shown)
    expect(page.locator("h1")).to_have_text("Is the first digit less than or equal to the second?")
    assert page.title().startswith("</script>")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3
    page.locator(".example").first.click()
    expect(page.locator("#verdict")).to_have_text("Draw the second one, too")


@needs_chromium
def test_a_page_may_request_nothing_and_run_nothing_else(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    asked: list[str] = []
    failed: set[str | None] = set()
    file.write_text(page_of(network_of("fnn")), encoding="utf-8")
    tries = """() => new Promise((done) => {
      const refused = [], place = "https://example.org/x";
      document.addEventListener("securitypolicyviolation", (event) => {
        if (refused.push(event.effectiveDirective) === 3) done(refused.sort());
      });
      fetch(place).catch(() => {});
      new Image().src = place;
      document.body.append(Object.assign(document.createElement("script"), {textContent: "document.title = 'run'"}));
    })"""
    with browser.new_context() as context:
        page = context.new_page()
        page.on("requestfinished", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: failed.add(request.failure))
        page.goto(file.as_uri())
        assert page.evaluate(tries) == ["connect-src", "img-src", "script-src-elem"]
        assert page.title() != "run"
        assert asked == [file.as_uri()]
        assert failed <= {"csp"}  # none got as far as the network


def test_the_card_says_what_the_network_is() -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "\n", page_of(network_of("cnn_bn"))))
    for said in (
        "small, trial 8",
        "cnn_bn+ws+al leaky_relu adam lr=0.005",
        "2.50 %",
        "2.25 ± 0.31 % over 3 rounds",
        "2.71 %, 95 % interval 2.40 to 3.02 %, over 20 fresh rounds",
        "72 784: one tower for both digits",
        "1000 pairs of scikit-learn's digits (round 2), 3 epochs in batches of 50",
        "may be read worse",
    ):
        assert said in text, said
    whole = page_of(Averaged([network_of("fnn")] * 2, TASK.average), params={**PARAMS, "ensemble": 2, "epochs": 7})
    assert "2 networks, each with one tower" in whole
    assert "7 epochs" in whole
    chosen = page_of(network_of("fnn"), protocol={"metric": "recognition", "select_on": "validation"})
    assert "<dt>In the study, on validation pairs</dt><dd>2.25 ± 0.31 %" in chosen
    assert "validation" not in text


def test_a_page_says_what_nothing_trained() -> None:
    network = network_of("fnn")
    plain = page_of(network)
    without = html.unescape(page_of(network, params={**PARAMS, "auxiliary_loss": False}))
    assert NO_DIGITS in without
    assert '"decides":"head"' in without
    task = DigitPairs(dataset="digits", main_weight=0.0)
    assert NO_HEAD in html.unescape(page_of(network, task))
    assert "chance" not in plain
    assert '"decides":"posterior"' in plain


class Other(nn.ReLU):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.abs()


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "kind": (nn.Softplus(), "Softplus(beta=1.0, threshold=20.0)"),
    "subclass": (Other(), "Other()"),
    "convolution": (nn.Conv2d(1, 1, 3, dilation=2), "Conv2d(1, 1, kernel_size=(3, 3), stride=(1, 1), dilation=(2, 2))"),
    "padding": (nn.Conv2d(1, 1, 3, padding="same"), "Conv2d("),
    "norm": (nn.BatchNorm2d(1, track_running_stats=False), "BatchNorm2d("),
    "pool": (nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d("),
    "mean": (nn.AvgPool2d(2, padding=1), "AvgPool2d("),
    "maps": (nn.AdaptiveAvgPool2d(2), "AdaptiveAvgPool2d(output_size=2)"),
    "flat": (nn.Flatten(0), "Flatten("),
    "container": (nn.ModuleDict({"a": nn.ReLU()}), "ModuleDict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_a_page_cannot_compute_is_refused_in_one_line(name: str) -> None:
    layer, shown = REFUSED[name]
    network = network_of("cnn")
    network.get_submodule("towers.0").insert(0, layer)  # type: ignore[operator]
    with pytest.raises(RequestError) as raised:
        TASK.page(network)
    assert str(raised.value).startswith(f"--page computes the layers of models/ alone, and not {shown}")
    assert "\n" not in str(raised.value)


def test_a_layer_with_a_hook_and_a_network_of_another_class_are_refused() -> None:
    network = network_of("fnn")
    network.get_submodule("towers.0.1").register_forward_hook(lambda *_: None)
    for refused in (network, nn.Sequential(nn.Flatten())):
        with pytest.raises(RequestError, match="--page computes"):
            TASK.page(refused)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of one trial, exported with a page, two rounds, and without, one."""
    folder = tmp_path_factory.mktemp("exported")
    for words in (
        ("optimize", "--study", "quickstart", "--trials", "1", "--workers", "1"),
        ("export", "quickstart", "-o", "champion.html", "--page", "--rounds", "2", "--json"),
        ("export", "quickstart", "-o", "plain", "--json"),
    ):
        done = hpo(*words, folder=folder)
        assert done.returncode == 0, done.stderr
        (folder / f"{words[0]}.out").write_text(done.stdout)
        if "--page" in words:
            assert json.loads(done.stdout)["page"] == "champion.html"
    return folder


@pytest.mark.slow
def test_export_writes_a_page_and_adds_it_to_the_study(exported: Path) -> None:
    assert json.loads((exported / "export.out").read_text())["page"] is None
    kinds = {name: {file.suffix for file in exported.glob(f"{name}.*")} for name in ("champion", "plain")}
    assert kinds == {"champion": {".safetensors", ".json", ".html"}, "plain": {".safetensors", ".json"}}
    assert "quickstart, trial 0" in (exported / "champion.html").read_text(encoding="utf-8")
    study = optuna.load_study(study_name="quickstart", storage=f"sqlite:///{exported}/hpo.db")
    attached = [one.filename for one in get_all_artifact_meta(study)]
    assert {"champion.safetensors", "champion.json", "champion.html"} <= set(attached)


@pytest.mark.slow
@needs_chromium
def test_an_exports_page_is_its_first_rounds_network(exported: Path, opened: Callable[..., Page]) -> None:
    pixels = 16 * torch.rand(1, 2, 14, 14)
    page = opened((exported / "champion.html").read_text(encoding="utf-8"))
    found = page.evaluate("([a, b]) => logitsOf(a, b)", pixels[0].flatten(1).tolist())
    for file in ("champion", "plain"):  # what is trained does not depend on whether there is a page
        comparison, digits = load_network(exported / f"{file}.safetensors")(pixels)
        np.testing.assert_allclose(found["comparison"], comparison[0], atol=1e-3)
        np.testing.assert_allclose(found["digits"], digits[0], atol=1e-3)


def test_a_page_is_made_of_an_ensemble_in_a_study() -> None:
    check_page(defined(SMALL_STUDY, "small"), {**PARAMS, "ensemble": 2}, Sources(Path()))
