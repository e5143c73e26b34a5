"""Tiles: how much of a result one program of a kernel makes, and with how many threads.

Which tile is fastest depends on card and sizes, and is found out by trying a few inside `tuning()`. What was found is
kept in the user's cache folder for other processes. Tiles round differently, so a process never changes the tile of a
kernel and its sizes: run a step inside `tuning()` before anything is trained. Elsewhere the file's answer is taken, or
the first tile of each list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
import torch
import triton
from filelock import FileLock

from hpo.text.files import write_whole

Key = tuple[str | int | bool, ...]
"""A kernel's name, and its constants."""


class Tile(NamedTuple):
    """One way to launch a kernel.

    Attributes:
        rows, columns: of the result that a program makes; all else has rows alone.
        depth: of the sum that a program takes at once.
        splits: programs that share a sum; their parts are added in order.
        warps: of 32 threads, for a program.
        stages: loads under way at once.
    """

    rows: int
    columns: int = 1
    depth: int = 1
    splits: int = 1
    warps: int = 4
    stages: int = 3

    @property
    def options(self) -> dict[str, int]:
        """What Triton's launch is told."""
        return {"num_warps": self.warps, "num_stages": self.stages}


class Tiles:
    """The tiles of this process.

    Args:
        file: where those that were found are kept.
        measure: returns the milliseconds that a launch takes.
    """

    def __init__(self, file: Path, measure: Callable[[Callable[[], object]], float]) -> None:
        self._file, self._measure = file, measure
        self._chosen: dict[str, Tile] = {}
        self.is_tuning = False

    def choose(self, key: Key, card: str | None, tiles: Sequence[Tile], launch: Callable[[Tile], object]) -> Tile:
        """Returns the tile of a kernel: the same one whenever it is asked for.

        Args:
            key: the kernel's name and constants.
            card: the GPU's name; None on a CPU, where the first tile is taken.
            tiles: to choose from; the first is taken where nothing is known and nothing is tried.
            launch: launches the kernel, without harm when it is repeated.
        """
        name = " ".join(map(str, (card, triton.__version__, *key)))
        if name not in self._chosen:
            self._chosen[name] = tiles[0] if card is None or len(tiles) == 1 else self._find(name, tiles, launch)
        return self._chosen[name]

    @contextmanager
    def tuning(self) -> Iterator[None]:
        """Context manager in which tiles that are not yet chosen are chosen by trying."""
        before, self.is_tuning = self.is_tuning, True
        try:
            yield
        finally:
            self.is_tuning = before

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Context manager after which what was chosen in it may be chosen otherwise: of kernels that train nothing."""
        before = dict(self._chosen)
        try:
            yield
        finally:
            self._chosen = before

    def _find(self, name: str, tiles: Sequence[Tile], launch: Callable[[Tile], object]) -> Tile:
        known = self._known(name, tiles)
        if known or not self.is_tuning:
            return known or tiles[0]
        compile_all(tiles, launch)
        best = min(tiles, key=lambda tile: self._measure(lambda: launch(tile)))
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._file.with_suffix(".lock")):
                if other := self._known(name, tiles):  # of a process that was faster: all are to have the same
                    return other
                write_whole(self._file, json.dumps(self._read() | {name: best}, indent=1))
        except OSError:
            pass  # then the next process tries again
        return best

    def _known(self, name: str, tiles: Sequence[Tile]) -> Tile | None:
        kept = self._read().get(name)
        return next((tile for tile in tiles if list(tile) == kept), None)

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def compile_all(tiles: Sequence[Tile], launch: Callable[[Tile], object]) -> None:
    """Launches a kernel with each tile, in threads: what takes time is the compiler, beside which others can work.

    One that fails, as where the card has not the memory for a tile, fails again when it is timed.
    """
    stream = torch.cuda.current_stream() if torch.cuda.is_available() else None

    def compile_one(tile: Tile) -> None:
        # A thread has a device and a stream of its own.
        with torch.cuda.stream(stream), suppress(Exception):
            launch(tile)

    with ThreadPoolExecutor(len(tiles)) as pool:
        list(pool.map(compile_one, tiles))


def milliseconds(launch: Callable[[], object]) -> float:
    """Returns how long a launch takes on a GPU; infinity where it does not compile, or lacks memory."""
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("tiles cannot be tried while a CUDA graph is recorded")
    torch.cuda.synchronize()  # it is tried on another stream, and writes where work under way may still read
    try:
        return float(triton.testing.do_bench_cudagraph(launch, rep=5))  # a graph, for a launch takes longer than a run
    except Exception:  # whatever a compiler makes of it; where no tile can be launched, the first says why
        return float("inf")


TILES = Tiles(Path(platformdirs.user_cache_dir("hpo")) / "gpu-tiles.json", milliseconds)
tuning, forgetting = TILES.tuning, TILES.forgetting


def choose(key: Key, device: torch.device, tiles: Sequence[Tile], launch: Callable[[Tile], object]) -> Tile:
    """Returns the tile of a kernel on a device, as `Tiles.choose` does."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return TILES.choose(key, card, tiles, launch)
