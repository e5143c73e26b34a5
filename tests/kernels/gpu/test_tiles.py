from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from triton.runtime.errors import OutOfResources

from hpo.kernels.gpu import norm, tiles
from hpo.kernels.gpu.activation import NONE
from hpo.kernels.gpu.norm import Settings, Statistics
from hpo.kernels.gpu.tiles import Tile, Tiles
from tests.kernels.gpu.comparison import leaf

SMALL, LARGE = Tile(16, 16, 16), Tile(128, 64, 32, splits=2, warps=8)
KEY = ("convolution", 10, 3, "tf32x3")


class Timer:
    """Takes what a launch returns for its milliseconds."""

    def __init__(self) -> None:
        self.launched: list[Tile] = []

    def __call__(self, launch: Callable[[], object]) -> float:
        tile = launch()
        assert isinstance(tile, Tile)
        self.launched.append(tile)
        return {SMALL: 2.0, LARGE: 1.0}[tile]


def choose(of: Tiles, card: str | None = "a card", key: tuple[str | int, ...] = KEY) -> Tile:
    return of.choose(key, card, [SMALL, LARGE], lambda tile: tile)


def test_the_fastest_tile_is_chosen_once_and_kept_for_other_processes(tmp_path: Path) -> None:
    file, timer = tmp_path / "new" / "tiles.json", Timer()
    first = Tiles(file, timer)
    with first.tuning():
        assert [choose(first), choose(first)] == [LARGE, LARGE]
        assert timer.launched == [SMALL, LARGE]
        assert choose(first, key=("another",)) == LARGE
    other = Tiles(file, timer)  # another process, which does not tune
    assert choose(other) == choose(other, key=("another",)) == LARGE
    assert choose(other, "another card") == SMALL
    assert len(timer.launched) == 4


def test_a_tile_that_was_used_stays_for_the_process(tmp_path: Path) -> None:
    timer = Timer()
    untuned = Tiles(tmp_path / "tiles.json", timer)
    assert choose(untuned) == SMALL
    with untuned.tuning():
        assert choose(untuned) == SMALL
    assert timer.launched == []
    assert not untuned.is_tuning


def test_on_a_cpu_nothing_is_tried(tmp_path: Path) -> None:
    timer = Timer()
    with (untried := Tiles(tmp_path / "tiles.json", timer)).tuning():
        assert choose(untried, None) == SMALL
    assert timer.launched == []


@pytest.mark.parametrize("held", [b"{", b"\xff", b"[1]", b'{"a card": 3}', b"null"])
def test_a_file_that_holds_something_else_is_written_anew(tmp_path: Path, held: bytes) -> None:
    file = tmp_path / "tiles.json"
    file.write_bytes(held)
    with (tuned := Tiles(file, Timer())).tuning():
        assert choose(tuned) == LARGE
    assert list(LARGE) in json.loads(file.read_text()).values()


def test_an_answer_that_is_no_candidate_any_more_is_found_anew(tmp_path: Path) -> None:
    file = tmp_path / "tiles.json"
    with (before := Tiles(file, lambda launch: 0.0)).tuning():
        before.choose(KEY, "a card", [Tile(1), Tile(2)], lambda tile: tile)
    assert choose(Tiles(file, Timer())) == SMALL
    with (after := Tiles(file, Timer())).tuning():
        assert choose(after) == LARGE


def test_where_nothing_can_be_written_it_is_tried_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (tuned := Tiles(tmp_path / "file" / "tiles.json", Timer())).tuning():
        assert choose(tuned) == LARGE


def test_trying_tiles_leaves_running_statistics_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(launch: Callable[[], object]) -> float:
        for _ in range(3):
            launch()
        return 0.0

    tried = Tiles(tmp_path / "tiles.json", measure)
    monkeypatch.setattr(norm, "TILES", tried)
    monkeypatch.setattr(norm, "choose", lambda key, device, *rest: tried.choose(key, "a card", *rest))
    outcomes = []
    for tuned in (True, False):
        kept = Statistics(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, dtype=torch.long))
        kept = Statistics(*(one.to(leaf(1).device) for one in kept))
        tried.is_tuning = tuned
        weight = leaf(1, 2).detach()
        norm.norm(leaf(1, 2, 3, 4, 4), weight, weight, kept, Settings(True, False, NONE, 1e-5, 0.1))
        outcomes.append(kept)
    assert outcomes[0].tracked.item() == 1
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_nothing_is_measured_while_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="while a CUDA graph is recorded"):
        tiles.milliseconds(lambda: None)


def test_tiles_are_compiled_beside_each_other_and_one_may_be_too_large(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=10)

    def launch(tile: Tile) -> Tile:
        if threading.current_thread() is not threading.main_thread():
            both.wait()
            if tile == SMALL:
                raise OutOfResources(1, 0, "shared memory")
        return tile

    with (tuned := Tiles(tmp_path / "tiles.json", Timer())).tuning():
        assert tuned.choose(KEY, "a card", [SMALL, LARGE], launch) == LARGE


def test_what_was_chosen_for_a_check_may_be_chosen_anew(tmp_path: Path) -> None:
    tiles = Tiles(tmp_path / "tiles.json", Timer())
    with tiles.forgetting():
        assert choose(tiles) == SMALL
    with tiles.tuning():
        assert choose(tiles) == LARGE


def test_two_that_find_tiles_at_once_have_the_same(tmp_path: Path) -> None:
    file = tmp_path / "tiles.json"
    slow = Tiles(file, lambda launch: 1.0 if launch() == SMALL else 2.0)

    def measure(launch: Callable[[], object]) -> float:
        with slow.tuning():
            choose(slow)  # which is done sooner, and finds another
        return Timer()(launch)

    with (late := Tiles(file, measure)).tuning():
        assert choose(late) == choose(slow) == SMALL
