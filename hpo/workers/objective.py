"""From a trial to its value: the one file where optuna and torch meet.

A trial's value is its mean test error over all rounds after the last epoch, in percent, by the study's decision.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from hpo.analysis.results import is_range_test, range_test_key
from hpo.errors import RequestError
from hpo.provenance import cpu_name, versions
from hpo.seeding import derive_seed
from hpo.storage.trials import batch_writes
from hpo.study import catalog
from hpo.study.definition import Protocol, StudyDefinition
from hpo.study.space import Configuration, Setup
from hpo.tasks.digit_pairs.pairs import Pairs, draw_rounds
from hpo.training.lr_curve import HIGH, LOW, STEPS, Floats, LRCurve, describe_curve, spaced_rates
from hpo.training.lr_range_test import run_range_test
from hpo.training.optimizers import TrainingConfig
from hpo.training.rounds import Rounds
from hpo.training.trainer import Epoch, Errors, build_networks, make_rounds, train_rounds
from hpo.workers.samplers import suggest


def make_objective(definition: StudyDefinition, device: str, data_folder: Path) -> MeanError:
    """Returns the objective of a study, its rounds' pairs drawn and on the device.

    Raises:
        RequestError: where the device or the dataset cannot be used.
    """
    place = find_device(device)
    if place.type == "cpu":
        # One worker a core is faster than one worker on all: the networks are small.
        torch.set_num_threads(1)
        threadpool_limits(1)  # NumPy's too
    else:
        torch.backends.cudnn.allow_tf32 = False  # or convolutions of float32 would keep 10 bits of 23
    protocol = definition.protocol
    train_pairs, test_pairs = draw_rounds(
        protocol.dataset,
        data_folder,
        study_seed=protocol.seed,
        rounds=protocol.round_numbers,
        train_pairs=protocol.train_pairs,
        test_pairs=protocol.test_pairs,
    )
    return MeanError(definition, place, train_pairs.to(place, torch.float32), test_pairs.to(place, torch.float32))


DECIMALS = (
    6  # of a percentage; errors are multiples of 100 / test_pairs, and 2.74 need not be shown as 2.7399999999999998
)


class MeanError:
    """Maps a trial to the mean test error of its rounds."""

    def __init__(self, definition: StudyDefinition, place: torch.device, train_pairs: Pairs, test_pairs: Pairs) -> None:
        self.definition = definition
        self.place = place
        self.train_pairs, self.test_pairs = train_pairs, test_pairs

    @property
    def device(self) -> str:
        """The device that it trains on, for people."""
        return str(self.place)

    def __call__(self, trial: optuna.Trial, epoch_done: Callable[[int], None] = lambda number: None) -> float:
        """Trains the trial's rounds, reports their mean error at the chosen epochs, and keeps what was measured.

        Args:
            epoch_done: is given the number of each epoch that is trained.

        Raises:
            optuna.TrialPruned: where the pruner says so.
        """
        began = time.perf_counter()
        protocol = self.definition.protocol
        keep = self.definition.run.keep
        errors_by_epoch: dict[int, list[float]] = {}
        kept: dict[str, Any] = {}
        with batch_writes(trial):
            configuration = suggest(trial, self.definition, lambda setup: self._find_rate(trial, setup))
        for epoch in self.train(self.prepare(configuration)):
            epoch_done(epoch.number)
            if "losses" in keep:
                kept.setdefault("losses_by_epoch", []).append(_shortened(epoch.losses))
            for layer, norms in epoch.gradient_norms.items():
                kept.setdefault("gradient_norms", {}).setdefault(layer, []).append(_shortened(norms))
            if epoch.errors is None:
                continue
            errors = decided(epoch.errors, protocol.decision)
            mean = round(errors.mean().item(), DECIMALS)
            errors_by_epoch[epoch.number] = _rounded(errors)
            trial.report(mean, step=epoch.number)
            pruned = epoch.number < protocol.epochs and trial.should_prune()
            if pruned or epoch.number == protocol.epochs:
                measured = {} if pruned else _measured(epoch.errors, errors)
                seconds = time.perf_counter() - began
                self._keep(trial, errors_by_epoch=errors_by_epoch, seconds=seconds, **measured, **kept)
                if pruned:
                    raise optuna.TrialPruned
        return mean

    def prepare(self, configuration: Configuration) -> Rounds:
        """Returns fresh networks of a configuration, each seeded by the study's seed and its round's number."""
        networks = build_networks(network_builder(configuration), self._seeds("weights"))
        return make_rounds(
            [network.to(self.place) for network in networks],
            make_config(self.definition.protocol, configuration),
            self.place,
            captured=not self._keeps_norms,
        )

    def train(self, rounds: Rounds) -> Iterator[Epoch]:
        """Trains prepared rounds on their pairs, shuffled by the study's seed and their numbers."""
        return train_rounds(
            rounds,
            self.train_pairs,
            self.test_pairs,
            epochs=self.definition.protocol.epochs,
            shuffle_seeds=self._seeds("shuffle"),
            evaluate_at=self.definition.protocol.evaluate_at,
            gradient_norms=self._keeps_norms,
        )

    @property
    def _keeps_norms(self) -> bool:
        return "gradient_norms" in self.definition.run.keep

    def curve(self, setup: Setup, rates: Floats, watch: Callable[[Sequence[float]], Iterable[float]] = iter) -> LRCurve:
        """Makes a range test of a setup, on every round's training pairs with networks of its own."""
        configuration = Configuration(**{**setup.model_dump(), "learning_rate": float(rates[0])})
        return run_range_test(
            build_networks(network_builder(setup), self._seeds("range test weights")),
            self.train_pairs,
            make_config(self.definition.protocol, configuration),
            rates,
            shuffle_seeds=self._seeds("range test shuffle"),
            device=self.place,
            watch=watch,
        )

    def _find_rate(self, trial: optuna.Trial, setup: Setup) -> float:
        """Returns the optimum of a setup's range test, which is made once and kept with the study.

        Of two workers that make the same one at the same moment the first to finish is believed.

        Raises:
            ValueError: where every round diverged at once.
        """
        key, study = range_test_key(setup), trial.study
        if not is_range_test(study.user_attrs.get(key)):
            curve = self.curve(setup, spaced_rates(LOW, HIGH, STEPS))
            if math.isnan(curve.mean):
                raise ValueError(f"range test: every round diverged at its first rates, from {LOW:g}")
            if not is_range_test(study.user_attrs.get(key)):
                study.set_user_attr(key, describe_curve(curve, setup.optimizer))
        return float(study.user_attrs[key]["mean"])

    def _seeds(self, stream: str) -> list[int]:
        protocol = self.definition.protocol
        return [derive_seed(protocol.seed, "round", r, stream) for r in protocol.round_numbers]

    def _keep(self, trial: optuna.Trial, **measured: Any) -> None:
        where = {"device": describe_device(self.place), "precision": self.definition.protocol.precision}
        kept = {**measured, **where, "versions": versions()}
        with batch_writes(trial):
            for key, value in kept.items():
                trial.set_user_attr(key, value)


def network_builder(setup: Setup) -> Callable[[], nn.Module]:
    """Returns what makes a fresh network of a setup."""
    architecture = catalog.load_architecture(setup.architecture)
    activation = catalog.load_activations()(setup.activation, setup.elu_alpha)
    return lambda: architecture(activation, weight_sharing=setup.weight_sharing)


def make_config(protocol: Protocol, configuration: Configuration) -> TrainingConfig:
    """Returns how a configuration is trained under a protocol."""
    share = configuration.auxiliary_share
    return TrainingConfig(
        epochs=protocol.epochs,
        batch_size=protocol.batch_size,
        optimizer=configuration.optimizer,
        learning_rate=configuration.learning_rate,
        auxiliary_loss=configuration.auxiliary_loss,
        main_weight=protocol.main_weight if share is None else 1 - share,
        auxiliary_weight=protocol.auxiliary_weight if share is None else share,
        precision=protocol.precision,
    )


def decided(errors: Errors, decision: str) -> Tensor:
    """Returns the errors by a decision, (R,) in percent."""
    return errors.head if decision == "head" else errors.recognition


def find_device(name: str) -> torch.device:
    """Returns the device that `auto`, `cpu`, `cuda` or `cuda:1` stands for.

    Raises:
        RequestError: where this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(
            f"device {name!r} is not here: PyTorch sees {torch.cuda.device_count()} CUDA devices; --device cpu works"
        )
    return device


def describe_device(device: torch.device) -> str:
    """Returns a device's name and model."""
    model = cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"{device} ({model})"


def _measured(last: Errors, errors: Tensor) -> dict[str, Any]:
    return {
        "errors": _rounded(errors),
        "errors_head": _rounded(last.head),
        "errors_recognition": _rounded(last.recognition),
        "std": errors.std().item() if len(errors) > 1 else None,
        "diverged_rounds": last.diverged.nonzero().flatten().tolist(),
    }


def _shortened(values: Tensor) -> list[float | None]:
    """Returns numbers to six digits; None for one that is not finite, which JSON has no word for."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


def _rounded(errors: Tensor) -> list[float]:
    return [round(error, DECIMALS) for error in errors.tolist()]
