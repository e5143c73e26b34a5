"""A page to try a network on: a person draws two digits, and sees what the network makes of them.

It is one file with the network in it, and asks the network for nothing: a content security policy allows its own script
and style by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jinja2
from torch import nn

from hpo.provenance import time_text
from hpo.study.task import Metric, Params
from hpo.tasks.digit_pairs.translation import Translation
from hpo.text.escaping import one_line
from hpo.text.formatting import capitalized, count, figure, spread, with_unit
from hpo.text.short_names import short_name
from hpo.training.ensembles import size_of

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("hpo.tasks.digit_pairs"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=lambda value: one_line(value) if type(value) is str else value,
)
SCRIPTS = ("network.js", "drawing.js", "page.js")
WAYS = (
    ("posterior", "By how probable each digit is"),
    ("recognition", "By the digits that are read"),
    ("head", "By the network's own head"),
)
DATASETS = {"mnist": "MNIST", "digits": "scikit-learn's digits"}
NO_DIGITS = (
    "Nothing taught this network's ten outputs which digit is which, so what it reads, and the two ways that rest on "
    "it, are at chance level. Its head decides."
)
WARNING = (
    "Its error was measured on {}. What you draw is fitted and centred as those are, but it is by another hand and "
    "pen, so it may be read worse."
)
NO_HEAD = "Nothing trained this network's head, so what it says is at chance level."


class Task(Protocol):
    """What a page tells of the task, `DigitPairs`."""

    @property
    def dataset(self) -> str:
        """The name of the dataset."""

    @property
    def train_pairs(self) -> int:
        """How many pairs a round trains on."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """The errors by each decision."""

    def untrained(self, params: Params) -> Sequence[str]:
        """Returns the metrics that are read off outputs which no loss trains."""


class NetworkPage:
    """A network that was translated for a page.

    Raises:
        RequestError: where it has a layer that a page cannot compute.
    """

    def __init__(self, task: Task, network: nn.Module) -> None:
        self._task, self._translation = task, Translation(network)

    def html(self, described: Mapping[str, Any]) -> str:
        """Returns the page.

        Args:
            described: the network's export, as its JSON has it; the network is of the first of its rounds.
        """
        style, script = _source("page.css"), "\n".join(map(_source, SCRIPTS))
        untrained = self._task.untrained(described["params"])
        reads, first = "recognition" not in untrained, described["rounds"][0]
        network = {
            "dataset": self._task.dataset,
            "decides": "posterior" if reads else "head",
            "mean": first["input_mean"],
            "deviation": first["input_deviation"],
            "members": self._translation.members,
        }
        return TEMPLATES.get_template("page.html").render(
            policy=_policy(style, script),
            style=style,
            script=script,
            network=_as_json(network),
            weights=base64.b64encode(self._translation.numbers).decode(),
            study=described["study"],
            ways=WAYS,
            measured=described["protocol"]["metric"] or self._task.metrics[0].name,
            reads=reads,
            notes=[*([] if reads else [NO_DIGITS]), *([NO_HEAD] if "head" in untrained else [])],
            card=self._card(described),
            warning=WARNING.format(DATASETS[self._task.dataset]),
            settings=_settings(described),
        )

    def _card(self, described: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Returns what there is to know of the network, each with its heading."""
        params, training, number = described["params"], described["training"], described["rounds"][0]["round"]
        epochs, batch = (params.get(name, training[name]) for name in ("epochs", "batch_size"))
        networks, towers = size_of(params), len(self._translation.members[0]["towers"])
        parts = "one tower for both digits" if towers == 1 else "a tower for each digit"
        whole = parts if networks == 1 else f"{count(networks, 'network')}, each with {parts}"
        dataset = DATASETS[self._task.dataset]
        versions = described["versions"]
        return [
            ("Study", f"{described['study']}, trial {described['trial']}"),
            ("Configuration", short_name(params)),
            *self._errors(described),
            ("Parameters", f"{self._translation.parameters:,}".replace(",", " ") + f": {whole}"),
            (
                "Trained on",
                f"{count(self._task.train_pairs, 'pair')} of {dataset} (round {number}), {count(epochs, 'epoch')} in "
                f"batches of {batch}",
            ),
            ("Made", f"{time_text()[:10]}, by hpo {versions['hpo']} and PyTorch {versions['torch']}"),
        ]

    def _errors(self, described: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Returns the network's error, that of its configuration in the study, and what a confirmation says of it."""
        metric = next(
            (one for one in self._task.metrics if one.name == described["protocol"]["metric"]), self._task.metrics[0]
        )
        unit, first, searched = metric.unit, described["rounds"][0], described["search"]
        title = capitalized(metric.title)
        found = [(title, with_unit(figure(first["error"], unit), unit))]
        if len(described["rounds"]) > 1:
            all_of_them = f"{spread(**described['error'], unit=unit)} over {count(len(described['rounds']), 'round')}"
            found[0] = (title, f"{found[0][1]} (exported: {all_of_them})")
        rounds = count(len(searched["errors"]), "round")
        on = ", on validation pairs" if described["protocol"]["select_on"] == "validation" else ""
        found.append((f"In the study{on}", f"{spread(searched['mean'], searched['std'], unit)} over {rounds}"))
        if confirmed := described.get("confirmed"):
            mean, low, high = (confirmed[key] for key in ("mean", "low", "high"))
            interval = (
                "" if low is None else f", 95 % interval {figure(low, unit)} to {with_unit(figure(high, unit), unit)}"
            )
            fresh = count(confirmed["rounds"], "fresh round")
            found.append(("Confirmed", f"{with_unit(figure(mean, unit), unit)}{interval}, over {fresh}"))
        return found


def _settings(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns all that the network was made by, as a study's file would name it."""
    return [
        *((name, _shown(value)) for name, value in described["params"].items()),
        *(
            (f"{table}.{name}", _shown(value))
            for table in ("task", "training", "protocol")
            for name, value in described[table].items()
            if value is not None
        ),
        *((f"version of {name}", _shown(value)) for name, value in described["versions"].items()),
    ]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _source(name: str) -> str:
    assert TEMPLATES.loader is not None
    return TEMPLATES.loader.get_source(TEMPLATES, name)[0].strip()


def _policy(style: str, script: str) -> str:
    """Returns a content security policy that allows this style and this script, and no request."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; script-src 'sha256-{script_hash}'; style-src 'sha256-{style_hash}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _as_json(value: Any) -> str:
    """Returns a value as JSON that can stand in a script element, where no markup is undone."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
