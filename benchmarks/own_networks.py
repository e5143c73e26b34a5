"""How fast networks of one's own are trained, beside their author's plain loop, on the same rounds and configurations.

    python -m benchmarks.own_networks              # five minutes

Two networks on scikit-learn's digits, 1 000 of them to train on, in 5 rounds: *linear*, a hidden layer of 64, for 10
epochs; *convolutional*, two convolutions with batch norm on the 8x8 images, for 3. The author's loop is that of
PyTorch's tutorials: a DataLoader of a TensorDataset, zero_grad, backward, step; *sliced* is the same with its batches
cut by hand. All in one process with one thread, in turn; lowest times, and the median of the passes' ratios, with the
lowest and the highest. Then *whole*: `hpo optimize` of 32 listed trials with a worker for each core, from the command
to its end, beside one process that measures them by the author's loop with all threads, its imports among it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from hpo.study.definition import StudyDefinition, define_study
from hpo.study.loading import load_task
from hpo.study.references import Sources
from hpo.study.resolving import resolve_by
from hpo.study.task import Params, Round
from hpo.training.network_task import Split
from hpo.training.preparation import build_networks
from hpo.training.trainer import Trainer

PASSES = 7
CODE = """
import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self, hidden: int = 64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.layers(x)


class Convolutional(nn.Module):
    def __init__(self, width: int = 16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        )
        self.last = nn.Linear(8 * width, 10)

    def forward(self, x):
        return self.last(self.layers(x.view(-1, 1, 8, 8)).flatten(1))
"""
EPOCHS = {"Linear": 10, "Convolutional": 3}
RATES = tuple(0.0005 * (1 + number) for number in range(16))


def study(network: str) -> dict[str, object]:
    """Returns the study of a network: 32 listed trials."""
    return {
        "title": network,
        "task": {
            **{"name": "classification", "network": f"own.py:{network}", "data": "sklearn:load_digits"},
            **{"train_examples": 1000, "test_examples": 500},
        },
        "training": {"epochs": EPOCHS[network], "batch_size": 50},
        "protocol": {"rounds": 5},
        "trial": [
            {"label": f"{optimizer} {rate}", "params": {"optimizer": optimizer, "learning_rate": rate}}
            for optimizer in ("sgd", "adam")
            for rate in RATES
        ],
    }


def loader(train: tuple[Tensor, ...], size: int) -> Iterator[list[Tensor]]:
    """Yields an epoch's batches as tutorials do."""
    yield from DataLoader(TensorDataset(*train), batch_size=size, shuffle=True)


def sliced(train: tuple[Tensor, ...], size: int) -> Iterator[list[Tensor]]:
    """Yields an epoch's batches, cut by hand."""
    for chosen in torch.split(torch.randperm(len(train[0])), size):
        yield [tensor[chosen] for tensor in train]


def plain_loop(
    network: nn.Module, split: Split, params: Params, epochs: int, batches: Callable[..., Iterator[list[Tensor]]]
) -> float:
    """Trains a network as its author would, and returns its test error in percent."""
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[str(params["optimizer"])]
    optimizer = kind(network.parameters(), lr=float(params["learning_rate"]))
    for _ in range(epochs):
        network.train()
        for x, y in batches(split.train, 50):
            optimizer.zero_grad()
            functional.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()
    with torch.no_grad():
        return 100 * float((network(split.test[0]).argmax(1) != split.test[1]).double().mean())


class Measured:
    """A network's study, its rounds drawn, and the ways to measure a configuration."""

    def __init__(self, network: str, folder: Path) -> None:
        sources = Sources(folder, folder, ("own.py:*",))
        given = define_study(study(network), name=network)
        loaded = load_task(given, study=network, sources=sources)
        self.definition: StudyDefinition = resolve_by(loaded, given, study=network)
        self.rounds: list[Round] = self.definition.rounds
        assert self.definition.training is not None
        self.trainer = Trainer(loaded.task, self.definition.training)
        self.build, self.data = loaded.task.network, [loaded.task.data(one) for one in self.rounds]
        self.params = [dict(entry.params) for entry in self.definition.trial]

    def ours(self, params: Params) -> float:
        """Measures as a worker does."""
        *_, last = self.trainer.measure(params, self.rounds)
        return fmean(last.errors["error"])

    def plain(self, params: Params, batches: Callable[..., Iterator[list[Tensor]]]) -> float:
        """Measures by the author's loop."""
        epochs = EPOCHS[self.definition.title]
        networks = build_networks(self.build, [one.seed("weights") for one in self.rounds])
        return fmean(
            plain_loop(network, split, params, epochs, batches)
            for network, split in zip(networks, self.data, strict=True)
        )


def whole_plain(network: str, folder: Path) -> None:
    """Measures all trials by the author's loop with all threads; run in a process of its own."""
    torch.set_num_threads(2)
    measured = Measured(network, folder)
    for params in measured.params:
        measured.plain(params, loader)


def compare(network: str, folder: Path) -> None:
    """Prints a network's rows."""
    torch.set_num_threads(1)
    measured = Measured(network, folder)
    params: Params = {"optimizer": "adam", "learning_rate": 0.004}
    ways: dict[str, Callable[[], float]] = {
        "hpo": lambda: measured.ours(params),
        "author's loop": lambda: measured.plain(params, loader),
        "sliced": lambda: measured.plain(params, sliced),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    errors: dict[str, float] = {}
    for number in range(PASSES + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            errors[name] = way()
            if number:
                taken[name].append(time.perf_counter() - began)
    for name, seconds in taken.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds, taken["hpo"], strict=True)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {network.lower()} | {name} | {1000 * min(seconds):.0f} | {spread} | {errors[name]:.2f} |", flush=True)


def compare_whole(network: str, folder: Path) -> None:
    """Prints how long all trials take, from the command to its end."""
    script = (
        "from pathlib import Path; from benchmarks.own_networks import whole_plain; "
        f"whole_plain({network!r}, Path({str(folder)!r}))"
    )
    ratios, lowest = [], [float("inf")] * 2
    for number in range(3):
        url = f"sqlite:///{folder}/{network}{number}.db"
        optimize = ["optimize", "--study", str(folder / f"{network}.toml"), "--storage", url]
        commands = [[sys.executable, "-m", "hpo", *optimize], [sys.executable, "-c", script]]
        seconds = []
        for command in commands:
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[1] / seconds[0])
        lowest = [min(pair) for pair in zip(lowest, seconds, strict=True)]
    spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    ours, theirs = (1000 * best for best in lowest)
    print(f"| {network.lower()} | whole: hpo, author's loop | {ours:.0f}, {theirs:.0f} | {spread} | |", flush=True)


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "own.py").write_text(CODE)
        print("| network | way | ms a trial | time beside hpo's | test error, % |\n|---|---|---|---|---|")
        for network in EPOCHS:
            (folder / f"{network}.toml").write_text(_toml(study(network)))
            compare(network, folder)
        for network in EPOCHS:
            compare_whole(network, folder)


def _toml(table: dict[str, object]) -> str:
    lines = []
    for key, value in table.items():
        if isinstance(value, dict):
            lines += [f"[{key}]", *(f"{name} = {_value(one)}" for name, one in value.items())]
        elif isinstance(value, list):
            for entry in value:
                lines += ["[[trial]]", f"label = {_value(entry['label'])}", "[trial.params]"]
                lines += [f"{name} = {_value(one)}" for name, one in entry["params"].items()]
        else:
            lines.insert(0, f"{key} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    main()
