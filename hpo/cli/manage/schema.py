"""`hpo schema`: the JSON Schema of a study's file."""

from __future__ import annotations

import click

from hpo.cli.options import print_json


@click.command()
def schema() -> None:
    """Print the JSON Schema of a study's file, for editors.

    \b
    hpo schema > hpo.schema.json

    With the line `#:schema hpo.schema.json` at the head of a study, editors that know TOML (taplo, tombi, Even Better
    TOML) complete its keys and mark what breaks a rule.
    """
    from hpo.study.json_schema import study_schema

    print_json(study_schema())
