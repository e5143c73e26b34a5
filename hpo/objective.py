"""From a trial to its value: the one file where optuna and torch meet.

A trial's value is its mean test error over all rounds after the last epoch, in percent, by the study's decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor

from . import catalog
from .data import draw_rounds
from .errors import RequestError
from .provenance import cpu_name, versions
from .seeding import derive_seed
from .space import Choices, Configuration
from .study import StudyDefinition
from .training import Errors, Recipe, build_networks, train

Objective = Callable[[optuna.Trial], float]


def make_objective(definition: StudyDefinition, device: str, data_folder: Path) -> Objective:
    """Returns the objective of a study, its rounds' pairs drawn and on the device.

    Raises:
        RequestError: where the device or the dataset cannot be used.
    """
    place = find_device(device)
    if place.type == "cpu":
        torch.set_num_threads(1)  # one worker a core is faster than one worker on all: the networks are small
    protocol = definition.protocol
    rounds = range(protocol.rounds)
    train_pairs, test_pairs = (
        pairs.to(place, torch.float32)
        for pairs in draw_rounds(
            protocol.dataset,
            data_folder,
            study_seed=protocol.seed,
            rounds=rounds,
            train_pairs=protocol.train_pairs,
            test_pairs=protocol.test_pairs,
        )
    )

    def objective(trial: optuna.Trial) -> float:
        """Trains the trial's rounds, reports their mean error at the chosen epochs, and keeps what was measured.

        Raises:
            optuna.TrialPruned: where the pruner says so.
        """
        began = time.perf_counter()
        configuration = suggest(trial, definition)
        build = catalog.load_architecture(configuration.architecture)
        activation = catalog.load_activations()(configuration.activation, configuration.elu_alpha)
        networks = build_networks(
            lambda: build(activation, weight_sharing=configuration.weight_sharing),
            seeds=[derive_seed(protocol.seed, "round", r, "weights") for r in rounds],
        )
        epochs = train(
            networks,
            train_pairs,
            test_pairs,
            make_recipe(definition, configuration),
            shuffle_seeds=[derive_seed(protocol.seed, "round", r, "shuffle") for r in rounds],
            evaluate_at=protocol.evaluate_at,
            device=place,
        )
        errors_by_epoch: dict[int, list[float]] = {}
        for epoch in epochs:
            if epoch.errors is None:
                continue
            errors = decided(epoch.errors, protocol.decision)
            errors_by_epoch[epoch.number] = errors.tolist()
            trial.report(errors.mean().item(), step=epoch.number)
            if epoch.number < protocol.epochs and trial.should_prune():
                _keep(trial, place, began, errors_by_epoch=errors_by_epoch)
                raise optuna.TrialPruned
        if epoch.errors is None:
            raise RuntimeError("the last epoch was not evaluated")
        _keep(trial, place, began, errors_by_epoch=errors_by_epoch, **_measured(epoch.errors, errors))
        return errors.mean().item()

    return objective


def suggest(trial: optuna.Trial, definition: StudyDefinition) -> Configuration:
    """Lets the trial's sampler propose a configuration from the study's space."""
    proposed: dict[str, Any] = {}
    # Unconditional parameters first: the others ask for their values.
    for name, parameter in sorted(definition.search_space.items(), key=lambda item: bool(item[1].when)):
        if any(proposed[key] != value for key, value in parameter.when.items()):
            continue
        if isinstance(parameter, Choices):
            proposed[name] = trial.suggest_categorical(name, parameter.choices)
        else:
            proposed[name] = trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
    return Configuration(**proposed)


def make_recipe(definition: StudyDefinition, configuration: Configuration) -> Recipe:
    """Returns how a configuration is trained under the study's protocol."""
    protocol = definition.protocol
    return Recipe(
        epochs=protocol.epochs,
        batch_size=protocol.batch_size,
        optimizer=configuration.optimizer,
        learning_rate=configuration.learning_rate,
        auxiliary_loss=configuration.auxiliary_loss,
        main_weight=protocol.main_weight,
        auxiliary_weight=protocol.auxiliary_weight,
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
        "errors": errors.tolist(),
        "errors_head": last.head.tolist(),
        "errors_recognition": last.recognition.tolist(),
        "std": errors.std().item() if len(errors) > 1 else None,
        "diverged_rounds": last.diverged.nonzero().flatten().tolist(),
    }


def _keep(trial: optuna.Trial, device: torch.device, began: float, **attributes: Any) -> None:
    kept = {
        **attributes,
        "seconds": round(time.perf_counter() - began, 3),
        "device": describe_device(device),
        "versions": versions(),
    }
    for key, value in kept.items():
        trial.set_user_attr(key, value)
