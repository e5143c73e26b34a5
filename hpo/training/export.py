"""The winner as files: its networks, one a round, trained again and measured, with all that one needs to use them.

A `.safetensors` file holds the weights, `round.R.NAME` for those of round R, and a description in its header; a `.json`
beside it holds the same description for people. `load_network` needs the former alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hpo import limits
from hpo.errors import RequestError
from hpo.provenance import versions
from hpo.study.definition import StudyDefinition, TaskTable, define_study
from hpo.study.loading import load_builder, load_task
from hpo.study.references import Sources
from hpo.study.resolving import resolve_by
from hpo.study.schema import explain, shown
from hpo.study.space import Given
from hpo.study.task import Measurement, Params, Round
from hpo.study.training import Training
from hpo.text.files import write_together
from hpo.text.short_names import short_name
from hpo.training.ensembles import Averaged, Member, average_of, members_of, size_of
from hpo.training.network_task import named_in
from hpo.training.trainer import open_trainer

DESCRIPTION = "hpo"  # the key in the header


def train_again(
    definition: StudyDefinition,
    params: Params,
    *,
    rounds: int,
    device: str,
    sources: Sources,
    watch: Callable[[Iterable[Measurement], int], Iterable[Measurement]] = lambda steps, total: steps,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Trains a configuration again on its study's first rounds; returns its description, and weights by name.

    A round is trained as the study trained it, so up to rounding it errs as it did there, where device and versions are
    the same; in a long training rounding makes another network of it, which errs about as much.

    Args:
        rounds: so many; beyond those of the study they are fresh ones.
        watch: goes through the epochs, of so many in all, as a progress bar does.

    Raises:
        RequestError: where the device or the data cannot be used.
    """
    protocol = definition.protocol.model_copy(update={"rounds": rounds})
    training = (definition.training or Training()).model_copy(update={"evaluate_at": ()})
    loaded = load_task(definition, study=definition.title, sources=sources)
    if not loaded.trains:
        raise RequestError(f"task {definition.task.name!r} trains no networks, so there is none to export")
    loaded.prepare(sources.data)
    numbered = [Round(number, protocol.seed) for number in protocol.round_numbers]
    trainer = open_trainer(loaded.task, training, device, numbered)
    networks = trainer.prepare(params, numbered)
    *_, last = watch(trainer.train(networks, params, numbered), networks.config.epochs)
    errors = last.errors[str(protocol.metric)]
    described = {
        "params": dict(params),
        "task": definition.task.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "protocol": protocol.model_dump(mode="json"),
        "given": dict(getattr(loaded.task, "given", {})),
        "rounds": [
            {"round": one.number, "error": error, **_normalisation(loaded.task, one)}
            for one, error in zip(numbered, errors, strict=True)
        ],
        "error": {"mean": fmean(errors), "std": stdev(errors) if rounds > 1 else None},
        "versions": versions(),
    }
    return described, _weights(members_of(numbered, size_of(params)), networks.states())


def _weights(rounds: Iterable[Round], states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{_prefix(one)}{name}": tensor.contiguous().cpu()
        for one, state in zip(rounds, states, strict=True)
        for name, tensor in state.items()
    }


def _prefix(round_: Round) -> str:
    """Returns by what the names of a network's weights begin: its round, and its place where that has several."""
    member = f"member.{round_.member}." if isinstance(round_, Member) else ""
    return f"round.{round_.number}.{member}"


def _normalisation(task: Any, round_: Round) -> dict[str, Any]:
    mean, deviation = task.normalisation(round_) if hasattr(task, "normalisation") else (0.0, 1.0)
    return {"input_mean": mean, "input_deviation": deviation}


def write(file: Path, described: dict[str, Any], weights: dict[str, Tensor], page: str | None = None) -> None:
    """Writes weights and description to a `.safetensors` file, the description to a `.json`, a page to a `.html`.

    All are written, or none.
    """
    write_together(
        {
            file: save(weights, metadata={DESCRIPTION: json.dumps(described)}),
            file.with_suffix(".json"): json.dumps(described, indent=2) + "\n",
            **({} if page is None else {file.with_suffix(".html"): page}),
        }
    )


class _Round(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    round: Annotated[int, Field(ge=0, lt=2**63)]
    input_mean: Annotated[Any, PlainValidator(lambda given: _numbers(given))]
    input_deviation: Annotated[Any, PlainValidator(lambda given: _numbers(given, smallest=limits.SMALLEST))]


def _numbers(given: Any, smallest: float = -math.inf) -> Any:
    """Returns a number, or lists of lists of numbers, each a feature's."""
    numbers = [given] if not isinstance(given, list) else given
    for number in numbers:
        if isinstance(number, list):
            _numbers(number, smallest)
        elif isinstance(number, bool) or not isinstance(number, int | float) or not smallest <= number < math.inf:
            raise ValueError(f"must be a finite number, but is {shown(number)}")
    if not numbers:
        raise ValueError("must be a number, but is []")
    return given


class _Description(BaseModel):
    """What loading a network takes of a description; anyone can have written it."""

    task: TaskTable
    training: Training
    params: dict[str, Given]
    given: dict[str, Any] = {}
    rounds: Annotated[list[_Round], Field(min_length=1)]


def load_network(
    file: Path, number: int | None = None, code: Path | None = None, allow: Sequence[str] = ()
) -> nn.Module:
    """Returns an exported network, ready to be used; see `hpo.load_network`."""
    text, stored = _read(file)
    sources = Sources.given(Path(), code or Path(), allow)
    try:
        described = _Description.model_validate_json(text)
    except ValidationError as error:
        raise RequestError(f"{file} is no export that can be loaded: {explain(error)}") from error
    listed = {
        **{"title": "export", "task": described.task, "training": described.training},
        "trial": [{"label": "exported", "params": described.params}],
    }
    try:
        definition, params = define_study(listed, name="export"), described.params
        for reference in definition.references:
            if not sources.allows(reference):
                how = f"code=FOLDER, allow=['{reference}']" if reference.is_file else f"allow=['{reference}']"
                raise RequestError(f"it needs {reference}, which load_network(…, {how}) lets be imported")
        build: Any = load_builder(definition, described.given, sources)
        task: Any = build
        if build is None:
            loaded = load_task(definition, study="export", sources=sources)
            task, params = loaded.task, resolve_by(loaded, definition, study="export").trial[0].params
            build = task.network
        networks = [build(**named_in(build, params)) for _ in range(size_of(params))]
        if not isinstance(networks[0], nn.Module):
            raise RequestError(f"it builds no network, but {shown(networks[0])}")
    except (RequestError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(f"{file} is no export that can be loaded: {error}") from error
    rounds = {one.round: one for one in described.rounds}
    chosen = next(iter(rounds)) if number is None else number
    if chosen not in rounds:
        raise RequestError(f"{file} has rounds {min(rounds)} to {max(rounds)}, but not {chosen}")
    try:
        whole = join_networks(networks, task, chosen, stored)
    except RequestError as error:
        raise RequestError(f"{file}: {error} {short_name(params)}") from error
    return Normalised(whole, rounds[chosen].input_mean, rounds[chosen].input_deviation).eval()


def join_networks(networks: Sequence[nn.Module], task: object, number: int, stored: Mapping[str, Tensor]) -> nn.Module:
    """Returns the network of a round, or what averages the members of its ensemble, with the weights that are stored.

    Raises:
        RequestError: where these are others.
    """
    for member, network in zip(members_of([Round(number, 0)], len(networks)), networks, strict=True):
        prefix = _prefix(member)
        weights = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            shown = f"round {number}" + (f", member {member.member}," if isinstance(member, Member) else "")
            raise RequestError(f"the weights of {shown} are not those of") from error
    return networks[0] if len(networks) == 1 else Averaged(networks, average_of(task))


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


class Normalised(nn.Module):
    """A network that takes inputs as the data has them, and normalises them as its round did."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: Any, deviation: Any) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation), persistent=False)
        self.requires_grad_(False)  # to be used, not trained

    def forward(self, inputs: Tensor) -> Any:
        """Maps inputs to what the network makes of them."""
        return self.network((inputs - self.mean) / self.deviation)
