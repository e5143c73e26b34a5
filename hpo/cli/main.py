"""The command line: arguments in, calls out.

A command's file is imported when the command is typed, and what is slow to import (optuna, torch, plotly) inside its
function, so that no help waits for it. Exit codes: 0 done, 1 the work failed, 2 the request was wrong (one line), 130
interrupted.
"""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import click

from hpo import __version__
from hpo.errors import HpoError, RequestError, UnknownName, explain_os_error, is_adrift
from hpo.signals import INTERRUPTED, is_behind
from hpo.storage.url import URL
from hpo.text.escaping import printable
from hpo.text.files import is_utf8
from hpo.text.output import guard_streams, say
from hpo.text.secrets import remember_secrets, show_url

COMMANDS = {  # name -> the file and the function
    "optimize": ("measure/optimize.py", "optimize"),
    "init": ("manage/init.py", "init"),
    "schema": ("manage/schema.py", "schema"),
    "check": ("measure/check.py", "check"),
    "confirm": ("measure/confirm.py", "confirm"),
    "ablate": ("measure/ablate.py", "ablate"),
    "drift": ("measure/drift.py", "drift_"),
    "worker": ("measure/worker.py", "worker"),
    "lr-find": ("measure/lr_find.py", "lr_find"),
    "reproduce": ("measure/reproduce.py", "reproduce"),
    "status": ("read/status.py", "status"),
    "best": ("read/best.py", "best"),
    "compare": ("read/compare.py", "compare"),
    "trials": ("read/trials.py", "trials"),
    "list": ("read/list.py", "list_"),
    "show": ("read/show.py", "show"),
    "dashboard": ("manage/dashboard.py", "dashboard"),
    "report": ("read/report.py", "report"),
    "export": ("measure/export.py", "export"),
}
FOLDER = Path(__file__).parent
COMPLETE = "_HPO_COMPLETE"  # by which a shell asks click what could come next


class _Program(click.Group):
    """Turns the program's errors into one line and their exit code, and imports a command where it is typed."""

    def list_commands(self, ctx: click.Context | None) -> list[str]:
        """Returns the names of the commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context | None, cmd_name: str) -> click.Command:
        """Returns a command.

        Raises:
            UnknownName: where there is none of that name.
        """
        if added := super().get_command(ctx, cmd_name):  # type: ignore[arg-type]
            return added
        if cmd_name not in COMMANDS:
            raise UnknownName("command", cmd_name, COMMANDS)
        file, function = COMMANDS[cmd_name]
        module = importlib.import_module(f"hpo.cli.{file.removesuffix('.py').replace('/', '.')}")
        command: click.Command = getattr(module, function)
        if sys.flags.optimize >= 2:  # Python has dropped every docstring, and click found no help
            command.help = _docstring(cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the names of the commands with the first line of each one's help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _docstring(name).partition("\n")[0]) for name in self.list_commands(ctx)])

    def main(self, *arguments: Any, **settings: Any) -> Any:
        if COMPLETE not in os.environ:  # a shell reads what click writes for it, as bytes
            guard_streams()
        try:
            _check_words()
            return super().main(*arguments, **{**settings, "standalone_mode": False, "complete_var": COMPLETE})
        except click.exceptions.NoArgsIsHelpError as help_asked:
            click.echo(help_asked.format_message())
            sys.exit(2)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(INTERRUPTED)
        except Exception as error:
            if is_behind(error):
                sys.exit(INTERRUPTED)
            message, exit_code = _explain(error)
            say(_fitting(f"hpo: {message}"), err=True)
            sys.exit(exit_code)


def _fitting(line: str) -> str:
    """Returns a line as it is, or where it goes to a terminal wrapped between words, which a terminal would cut."""
    if not sys.stderr.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


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


def _docstring(command: str) -> str:
    """Returns a command's help, read from its file."""
    file, function = COMMANDS[command]
    return _docstring_in(FOLDER / file, function)


def _docstring_in(file: Path, function: str) -> str:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return ast.get_docstring(node) or ""
    raise LookupError(f"{file} has no function {function}")


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hpo")
def main() -> None:
    """Hyperparameter studies of small neural networks: which configuration is better, by how much, how sure.

    \b
    hpo list                          what can be studied
    hpo optimize cnn --trials 200     search; repeat it to resume or join
    hpo best cnn                      the best trial so far
    hpo confirm cnn                   the best again, on fresh rounds
    hpo compare cnn                   which is better, by how much, how sure
    hpo dashboard                     watch live in optuna-dashboard
    hpo report cnn -o report          the results, as a page
    hpo export cnn -o winner          the best, trained, as a file
    """


if sys.flags.optimize >= 2:
    main.help = _docstring_in(Path(__file__), "main")
