"""The command line: arguments in, calls out.

Every import of weight stands inside its command, so that `hpo --help` loads neither torch nor optuna. Exit codes: 0
done, 1 the work failed, 2 the request was wrong (one line), 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from . import __version__, cli_lab, cli_read, cli_work, cli_write
from .errors import HpoError


class _Program(click.Group):
    """Turns the program's errors into one line and their exit code."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        try:
            return super().main(*arguments, **{**settings, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as help_asked:
            click.echo(help_asked.format_message())
            sys.exit(2)
        except click.ClickException as error:
            _fail(error.format_message().rstrip("."), 2)
        except HpoError as error:
            _fail(str(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(130)
        except Exception as error:
            _fail(_storage_failure(error), 1)


def _storage_failure(error: Exception) -> str:
    """Returns what to say of an error that the storage's database made; raises any other again, which is a bug."""
    if "hpo.storage" in sys.modules:
        from .storage import FAILURES, explain_failure

        if isinstance(error, FAILURES):
            return f"the storage failed: {explain_failure(error)}"
    raise error


def _fail(message: str, exit_code: int) -> None:
    click.echo(f"hpo: {message}", err=True)
    sys.exit(exit_code)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hpo")
def main() -> None:
    """Hyperparameter studies of small neural networks: which configuration is better, by how much, how sure.

    \b
    hpo list                                 what can be studied
    hpo optimize --study cnn --trials 200    search; repeat it to resume or join
    hpo best --study cnn                     the best trial so far
    hpo confirm --study cnn                  the best again, on fresh rounds
    hpo dashboard                            watch live in optuna-dashboard
    hpo report --study cnn -o report         the results, as a page
    hpo export --study cnn -o winner         the best, trained, as a file
    """


for command in (
    cli_work.optimize,
    cli_work.confirm,
    cli_work.drift_,
    cli_work.worker,
    cli_lab.lr_find,
    cli_lab.reproduce,
    cli_read.status,
    cli_read.best,
    cli_read.trials,
    cli_read.list_,
    cli_read.show,
    cli_read.dashboard,
    cli_write.report,
    cli_write.export,
):
    main.add_command(command)
