"""The command line: arguments in, calls out.

Every import of weight stands inside its command, so that `hpo --help` loads neither torch nor optuna. Exit codes: 0
done, 1 the work failed, 2 the request was wrong (one line), 130 interrupted.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import click

from hpo import __version__
from hpo.cli import cli_lab, cli_read, cli_work, cli_write
from hpo.errors import HpoError, RequestError, explain_os_error, is_adrift
from hpo.text.address import URL, remember_secrets, show_url
from hpo.text.escaping import printable
from hpo.text.output import guard_streams, say
from hpo.text.text_files import is_utf8
from hpo.workers.signals import INTERRUPTED, is_behind


class _Program(click.Group):
    """Turns the program's errors into one line and their exit code."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        guard_streams()
        try:
            _check_words()
            return super().main(*arguments, **{**settings, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as help_asked:
            click.echo(help_asked.format_message())
            sys.exit(2)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(INTERRUPTED)
        except Exception as error:
            if is_behind(error):
                sys.exit(INTERRUPTED)
            message, exit_code = _explain(error)
            say(f"hpo: {message}", err=True)
            sys.exit(exit_code)


def _explain(error: Exception) -> tuple[str, int]:
    """Returns what to say of an error, and the exit code; raises one that is a bug again."""
    if isinstance(error, click.ClickException):
        return error.format_message().rstrip("."), 2
    if isinstance(error, HpoError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        return explain_os_error(error), 2 if is_adrift() else 1
    if "hpo.storage.backends" in sys.modules:
        from hpo.storage.backends import FAILURES, explain_failure

        if isinstance(error, FAILURES):
            return f"the storage failed: {explain_failure(error)}", 1
    raise error


def _check_words() -> None:
    """Reads the command line and the environment for what is secret in them, and for what no text can hold.

    Raises:
        RequestError: that names the first which is not UTF-8.
    """
    words = {f"argument {i} ({printable(show_url(word))})": word for i, word in enumerate(sys.argv[1:], 1)}
    words |= {f"${name}": value for name, value in os.environ.items() if name.startswith("HPO_")}
    for word in (*sys.argv[1:], os.environ.get(URL, "")):
        if "://" in word or "=" in word:
            remember_secrets(word)
    for name, word in words.items():
        if not is_utf8(word):
            raise RequestError(f"{name} is not UTF-8")


def _docstring_in_source(function: Any) -> str | None:
    """Returns a function's docstring, read from its file."""
    code = inspect.unwrap(function).__code__
    for node in ast.walk(ast.parse(Path(code.co_filename).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            return ast.get_docstring(node)
    return None


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
if sys.flags.optimize >= 2:  # Python has dropped every docstring, and click found no help
    for command in (main, *main.commands.values()):
        command.help = _docstring_in_source(command.callback)
