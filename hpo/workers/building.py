"""Makes sure that a study's networks can be built, also the smallest and the largest: before anything is created."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpo.errors import StudyError
from hpo.study.code import explain_code
from hpo.study.definition import StudyDefinition
from hpo.study.loading import LoadedTask
from hpo.study.space import Choices, in_order, is_there
from hpo.study.task import Params

MOST_BUILT = 100  # a network may be large, and a study be of many


def check_networks(loaded: LoadedTask, definition: StudyDefinition, *, study: str) -> None:
    """Builds networks, a listed configuration's each, and of a space those at the ends of what its networks take.

    Raises:
        StudyError: that says which cannot be built.
    """
    taken = {name for name, (taker, _) in loaded.keywords().items() if taker == "network"}
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
