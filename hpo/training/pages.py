"""Pages to try an exported network on, of a task that brings `page`.

Its `page(network)` returns what writes one, by `html(described)`, or refuses the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hpo.errors import RequestError
from hpo.study.definition import StudyDefinition
from hpo.study.loading import load_task
from hpo.study.references import Sources
from hpo.study.task import Params
from hpo.training.ensembles import Averaged, average_of, size_of
from hpo.training.export import join_networks
from hpo.training.network_task import named_in


def check_page(definition: StudyDefinition, params: Params, sources: Sources) -> None:
    """Makes sure that there can be a page of a configuration's network, before that is trained.

    Raises:
        RequestError: where the task brings none, or has none for this network.
    """
    task, networks = _untrained(definition, params, sources)
    task.page(networks[0] if len(networks) == 1 else Averaged(networks, average_of(task)))


def make_page(
    definition: StudyDefinition, described: Mapping[str, Any], weights: Mapping[str, Tensor], sources: Sources
) -> str:
    """Returns the page of the first round's network of an export.

    Args:
        described: what `train_again` says of it, and what the command adds.
    """
    task, networks = _untrained(definition, described["params"], sources)
    network = join_networks(networks, task, described["rounds"][0]["round"], weights)
    return str(task.page(network.eval()).html(described))


def _untrained(definition: StudyDefinition, params: Params, sources: Sources) -> tuple[Any, list[nn.Module]]:
    task: Any = load_task(definition, study=definition.title, sources=sources).task
    if not hasattr(task, "page"):
        raise RequestError(f"--page is for task 'digit_pairs', but this is task {definition.task.name!r}")
    return task, [task.network(**named_in(task.network, params)) for _ in range(size_of(params))]
