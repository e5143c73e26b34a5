"""The winner as files: its networks, one a round, trained again and measured, with all that one needs to use them.

A `.safetensors` file holds the weights, `round.R.NAME` for those of round R, and a description in its header; a `.json`
beside it holds the same description for people. `load_network` needs the former alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hpo.errors import RequestError, UnknownName
from hpo.provenance import versions
from hpo.storage.queries import StoredTrial
from hpo.study.definition import StudyDefinition
from hpo.study.schema import Factor
from hpo.study.space import Configuration, Setup
from hpo.tasks.digit_pairs.pairs import draw_normalisations
from hpo.text.files import write_together
from hpo.training.trainer import Epoch
from hpo.workers.objective import decided, make_objective, network_builder

DESCRIPTION = "hpo"  # the key in the header
SETUP = tuple(Setup.model_fields)


def train_winner(
    definition: StudyDefinition,
    trial: StoredTrial,
    *,
    rounds: int,
    device: str,
    data_folder: Path,
    watch: Callable[[Iterable[Epoch], int], Iterable[Epoch]] = lambda epochs, total: epochs,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Trains a trial's configuration again on its study's first rounds; returns its description, and weights by name.

    A round is trained as the study trained it, so up to rounding it errs as it did there, where device and versions are
    the same.

    Args:
        rounds: so many; beyond those of the study they are fresh ones.
        watch: goes through the epochs, of so many in all, as a progress bar does.

    Raises:
        RequestError: where the device or the dataset cannot be used.
    """
    protocol = definition.protocol.model_copy(update={"rounds": rounds, "evaluate_at": ()})
    configuration = Configuration(**trial.params)
    alone = definition.model_copy(update={"protocol": protocol, "run": definition.run.model_copy(update={"keep": ()})})
    objective = make_objective(alone, device, data_folder)
    prepared = objective.prepare(configuration)
    *_, last = watch(objective.train(prepared), protocol.epochs)
    assert last.errors is not None  # the last epoch always is evaluated
    errors = decided(last.errors, protocol.decision).tolist()
    normalisations = draw_normalisations(
        protocol.dataset, data_folder, study_seed=protocol.seed, rounds=protocol.round_numbers,
        train_pairs=protocol.train_pairs,
    )  # fmt: skip
    described = {
        "trial": trial.number,
        "configuration": configuration.model_dump(),
        "protocol": protocol.model_dump(mode="json"),
        "rounds": [
            {"round": r, "error": error, "pixel_mean": mean, "pixel_deviation": deviation}
            for r, error, (mean, deviation) in zip(protocol.round_numbers, errors, normalisations, strict=True)
        ],
        "error": {"mean": fmean(errors), "std": stdev(errors) if rounds > 1 else None},
        "search": {"mean": trial.value, "std": trial.attributes.get("std"), "errors": trial.attributes["errors"]},
        "versions": versions(),
    }
    weights = {
        f"round.{r}.{name}": tensor.contiguous().cpu()
        for r, state in zip(protocol.round_numbers, prepared.states(), strict=True)
        for name, tensor in state.items()
    }
    return described, weights


def write(file: Path, described: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Writes weights and description to a `.safetensors` file, and the description to a `.json` beside it."""
    write_together(
        {
            file: save(weights, metadata={DESCRIPTION: json.dumps(described)}),
            file.with_suffix(".json"): json.dumps(described, indent=2) + "\n",
        }
    )


class _Round(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    round: Annotated[int, Field(ge=0, lt=2**63)]
    pixel_mean: float
    pixel_deviation: Factor


class _Description(BaseModel):
    """What loading a network takes of a description; anyone can have written it."""

    configuration: dict[str, Any]
    rounds: Annotated[list[_Round], Field(min_length=1)]


def load_network(file: Path, number: int | None = None) -> nn.Module:
    """Returns an exported network, ready to be used; see `hpo.load_network`."""
    text, stored = _read(file)
    try:
        described = _Description.model_validate_json(text)
        setup = Setup(**{name: described.configuration[name] for name in SETUP if name in described.configuration})
        network = network_builder(setup)()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "its description"
        raise RequestError(f"{file} is no export that can be loaded: {key}: {first['msg']}") from error
    except UnknownName as error:
        raise RequestError(f"{file}: {error}") from error
    rounds = {one.round: one for one in described.rounds}
    chosen = next(iter(rounds)) if number is None else number
    if chosen not in rounds:
        raise RequestError(f"{file} has rounds {min(rounds)} to {max(rounds)}, but not {chosen}")
    prefix = f"round.{chosen}."
    weights = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise RequestError(f"{file}: the weights of round {chosen} are not those of {setup.architecture}") from error
    return OnPixels(network, rounds[chosen].pixel_mean, rounds[chosen].pixel_deviation).eval()


def _read(file: Path) -> tuple[str, dict[str, Tensor]]:
    """Returns the description and the tensors of a `.safetensors` file.

    Raises:
        RequestError: where it is not there, cannot be read, or is another.
    """
    if not file.is_file():
        raise RequestError(f"{file} is {'no file' if file.exists() else 'not there'}")
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(DESCRIPTION)
            stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise RequestError(f"{file} is no safetensors file: {error}") from error
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error}") from error
    if text is None:
        raise RequestError(f"{file} was not written by hpo export")
    return text, stored


class OnPixels(nn.Module):
    """A network that takes images as the dataset has them, and normalises them as its round did."""

    def __init__(self, network: nn.Module, mean: float, deviation: float) -> None:
        super().__init__()
        self.network, self.mean, self.deviation = network, mean, deviation
        self.requires_grad_(False)  # to be used, not trained

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps pairs of images (B, 2, 14, 14) to comparison logits (B, 2) and digit logits (B, 2, 10)."""
        logits: tuple[Tensor, Tensor] = self.network((images - self.mean) / self.deviation)
        return logits
