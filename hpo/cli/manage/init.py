"""`hpo init`: the first files of a study."""

from __future__ import annotations

from pathlib import Path

import click

from hpo.cli.manage.templates import TEMPLATES
from hpo.text.commands import command_here
from hpo.text.output import say


@click.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--task",
    type=click.Choice(list(TEMPLATES)),
    default="function",
    show_default=True,
    help="A function; a network on examples; or a network with loss, data and errors of your own.",
)
def init(name: str, task: str) -> None:
    """Write the first files of a study into this folder, its file and its code, which run as they are.

    A third, hpo.schema.json, lets editors complete and check the study.
    """
    import json
    import re

    from hpo.errors import RequestError
    from hpo.study.catalog import shipped
    from hpo.study.json_schema import FILE, study_schema
    from hpo.text.files import write_whole
    from hpo.text.names import check_name

    name = name.removesuffix(".toml")
    check_name(name, hint="")
    if not re.fullmatch(r"[\w.-]+", name):  # it stands in TOML, in Python and in names of files
        raise RequestError(f"a name here must have letters, digits, '_', '-' and points alone, but is {name!r}")
    files = {Path(file.replace("NAME", name)): text.replace("NAME", name) for file, text in TEMPLATES[task].items()}
    if (shipped("studies") / f"{name}.toml").exists():
        raise RequestError(f"hpo has a study named {name!r}; give yours another name")
    for file in files:
        if file.exists():
            raise RequestError(f"{file} is here already; move it, or give the study another name")
    if not Path(FILE).exists():
        files[Path(FILE)] = json.dumps(study_schema(), indent=2) + "\n"
    for file, text in files.items():
        write_whole(file, text)
    checked, optimized = (
        command_here("check", "--study", name),
        command_here("optimize", "--study", name, "--trials", "20"),
    )
    say(f"wrote {', '.join(map(str, files))}", "", "next:", f"  {checked}", f"  {optimized}")
