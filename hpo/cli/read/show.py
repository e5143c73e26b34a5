"""`hpo show`: a study resolved, or an architecture's layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from hpo.cli.arguments import File, StudyName
from hpo.cli.columns import FittedTable
from hpo.cli.options import json_option, print_json, print_parts, written_by_request
from hpo.cli.run import begin_work
from hpo.text.formatting import text_of
from hpo.text.output import say


def complete_shown(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes a study or an architecture."""
    from hpo.tasks.digit_pairs.architectures import architectures

    known = [CompletionItem(name) for name in sorted(architectures()) if name.startswith(incomplete)]
    return [*StudyName().shell_complete(ctx, param, incomplete), *known]


@click.command()
@click.argument("name", shell_complete=complete_shown)
@click.option(
    "-o", "picture", type=File(), metavar="FILE",
    help="Draw the architecture into FILE.png or FILE.html.",
)  # fmt: skip
@json_option
def show(name: str, picture: Path | None, as_json: bool) -> None:
    """Show a study resolved, or an architecture's layers.

    A study is printed with every default filled in, an architecture with shapes and parameters. Both are, where both
    have the name.
    """
    from hpo.errors import RequestError, UnknownName
    from hpo.study import catalog
    from hpo.tasks.digit_pairs.architectures import architectures, load_activations, load_architecture

    begin_work()
    known = {**catalog.studies(), **architectures()}
    if name not in known:
        name = StudyName().convert(name, None, click.get_current_context())
    if name not in known and not name.endswith(".toml"):
        raise UnknownName("study or architecture", name, known)
    found: dict[str, Any] = {}
    if name in catalog.studies() or name.endswith(".toml"):
        found["study"] = catalog.load_study(name)[1].model_dump(mode="json")
    if name in architectures():
        from hpo.training.network_summary import describe

        summary = architectures()[name].summary
        build, relu = load_architecture(name), load_activations()("relu")
        found["architecture"] = {"summary": summary, **describe(build, relu)}
    if picture is not None:
        if "architecture" not in found or picture.suffix not in (".png", ".html"):
            raise RequestError(f"-o draws an architecture into a .png or .html, not {name!r} into {picture}")
        _draw(name, found["architecture"]["layers"], picture)
    if as_json:
        print_json(found)
        return
    if "study" in found:
        say(*study_text(name, found["study"]))
    if "architecture" in found:
        print_parts(*layers_table(name, found["architecture"]))


def _draw(name: str, layers: list[dict[str, Any]], picture: Path) -> None:
    from hpo.errors import WorkError
    from hpo.report.figures import network_figure, write_html, write_png

    figure, missing = network_figure(name, layers), ""
    with written_by_request():
        picture.parent.mkdir(parents=True, exist_ok=True)
        if picture.suffix == ".html":
            write_html(figure, picture)
        else:
            missing = write_png(figure, picture)
    if missing:
        raise WorkError(f"{missing}; a .html does not")


def study_text(name: str, definition: dict[str, Any]) -> list[str]:
    """Returns a study's definition, all defaults filled in, as lines of `key = value`."""
    lines = [f"study {name}: {definition['title']}"]
    for table in ("task", "training", "protocol", "sampler", "pruner", "race", "space", "run"):
        if definition[table]:
            lines += ["", f"[{table}]", *_settings(definition[table])]
    for entry in definition["trial"]:
        published = entry["published"]
        beside = f"  (published {text_of(published['mean'])} ± {text_of(published['std'])})" if published else ""
        lines += [
            "",
            f"[[trial]] {entry['label']}{beside}",
            *_settings(entry["params"]),
        ]
    return lines


def _settings(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]


def layers_table(name: str, architecture: dict[str, Any]) -> list[Any]:
    """Returns an architecture's layers, as they are with weight sharing, and its parameter counts."""
    table = FittedTable()
    ranks = {"layer": 0, "kind": 0, "weight": 2, "output": 1, "parameters": 0}
    for heading, rank in ranks.items():
        table.add_column(heading, justify="left" if heading in ("layer", "kind") else "right", rank=rank)
    for layer in architecture["layers"]:
        kind = layer["kind"].partition("(")[0]
        weight, output = ("x".join(map(str, layer[key])) for key in ("weight", "shape"))
        table.add_row(layer["name"], kind, weight, output, f"{layer['parameters']:,}" if layer["parameters"] else "")
    counts = architecture["parameters"]
    shared, apart = (f"{counts[key]:,}" for key in ("weight_sharing", "no_weight_sharing"))
    total = f"parameters: {shared} with weight sharing, {apart} without (two towers)"
    return [f"architecture {name}: {architecture['summary']}", table, total]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        if "choices" in value and not value["when"]:
            return _toml(value["choices"])
        absent = {"when": {}, "log": False, "step": 1}  # as a file leaves them out
        shown = {key: item for key, item in value.items() if key not in absent or item != absent[key]}
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in shown.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)  # for these values JSON is TOML
