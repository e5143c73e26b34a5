"""Studies and trials that other programs add to a database, and the commands that meet them."""

from __future__ import annotations

from typing import Any

import optuna
from click.testing import CliRunner, Result
from optuna.storages import RDBStorage

from hpo.cli.main import main


def hpo(opened: RDBStorage, *arguments: str) -> Result:
    """Runs a command in this process; an exception that is no exit is raised."""
    done = CliRunner().invoke(main, [*arguments, "--storage", opened.engine.url.render_as_string(False)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def foreign(opened: RDBStorage, name: str = "theirs", **settings: Any) -> optuna.Study:
    """Returns a study that plain Optuna has made in the same database."""
    return optuna.create_study(study_name=name, storage=opened, **settings)


def attributes_of(opened: RDBStorage, name: str) -> list[dict[str, Any]]:
    key = opened.get_study_id_from_name(name)
    return [opened.get_study_user_attrs(key), opened.get_study_system_attrs(key)]
