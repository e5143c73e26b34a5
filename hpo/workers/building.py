"""Makes sure that a study's networks can be built, also the smallest and the largest: before anything is created."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpo.errors import StudyError
from hpo.study.code import explain_code
from hpo.study.definition import StudyDefinition
from hpo.study.loading import LoadedTask
from hpo.study.space import LEARNING_RATE, Choices, IntRange, all_values, in_order, is_there
from hpo.study.task import Params
from hpo.study.training import leaves_rate

MOST_BUILT = 100  # a network may be large, and a study be of many


def check_networks(loaded: LoadedTask, definition: StudyDefinition, *, study: str) -> None:
    """Builds networks, a listed configuration's each, and of a space those at the ends of what its networks take.

    Raises:
        StudyError: that says which cannot be built.
    """
    taken = _taken_by_networks(loaded)
    configurations = [entry.params for entry in definition.trial] or ends(definition, taken)
    networks = {
        repr(sorted(params.items())): params
        for params in ({name: value for name, value in one.items() if name in taken} for one in configurations)
    }
    for params in list(networks.values())[:MOST_BUILT]:
        try:
            loaded.task.network(**params)
        except (Exception, SystemExit) as error:
            listed = ", ".join(f"{name} = {value!r}" for name, value in params.items())
            raise StudyError(f"study {study!r}: with {listed}: {explain_code(error)}") from error


def _taken_by_networks(loaded: LoadedTask) -> set[str]:
    return {name for name, (taker, _) in loaded.keywords().items() if taker == "network"}


def ends(definition: StudyDefinition, names: set[str]) -> Iterator[Params]:
    """Yields configurations of a space: with each choice of each parameter, each of the others at both its ends.

    Args:
        names: of the parameters that are to be so; all others have their first values.
    """
    space = {name: parameter for name, parameter in in_order(definition.space) if name in names}
    choices = [(name, one) for name, kind in space.items() if isinstance(kind, Choices) for one in kind.choices]
    for first in [dict([choice]) for choice in choices] or [{}]:
        for other, kind in space.items():
            for value in kind.values:
                yield configuration(definition, {**first, other: value})


def configuration(definition: StudyDefinition, chosen: Params, *, last: bool = False) -> dict[str, Any]:
    """Returns a configuration with some values, all others the first or the last; without what is not there then."""
    params: dict[str, Any] = {}
    for name, parameter in in_order(definition.space):
        if is_there(parameter, params):
            params[name] = chosen.get(name, parameter.values[-1 if last else 0])
    return params


def rehearsed(loaded: LoadedTask, definition: StudyDefinition) -> list[Params]:
    """Returns with which configurations a study takes a step before it begins: with its first.

    Where its batches have several sizes, which the task does not check by itself, with each of them, and each network:
    one with batch norm, say, cannot train on a last batch of one example.
    """
    first = chosen_params(definition)
    if not loaded.trains or hasattr(loaded.task, "check") or "batch_size" not in definition.parameters:
        return [first]
    deciding = {*(taken := _taken_by_networks(loaded)), "batch_size"}
    if definition.trial:
        found = [_with_a_rate(definition, entry.params) for entry in definition.trial]
    else:
        sizes = definition.space["batch_size"]
        is_few = isinstance(sizes, Choices | IntRange) and sizes.size <= MOST_BUILT
        each = all_values(sizes) if is_few else sizes.values  # type: ignore[arg-type]
        chosen = [*ends(definition, taken)] or [first]
        found = [configuration(definition, {**one, "batch_size": size}) for size in each for one in chosen]
    different = {repr(sorted((key, one[key]) for key in deciding & one.keys())): one for one in [first, *found]}
    return list(different.values())[:MOST_BUILT]


def chosen_params(definition: StudyDefinition, *, last: bool = False) -> Params:
    """Returns a configuration to try a study with: the first value of each parameter, or the first that is listed.

    Args:
        last: whether to take the last ones.
    """
    place = -1 if last else 0
    if definition.trial:
        return _with_a_rate(definition, definition.trial[place].params)
    return configuration(definition, {}, last=last)


def _with_a_rate(definition: StudyDefinition, listed: Params) -> Params:
    """Returns a listed configuration; with some learning rate where a range test is to find it, as no function's."""
    return {**listed, LEARNING_RATE: 1e-3} if leaves_rate(definition.training, listed) else listed
