"""Where the program starts: what must be so before anything of weight is imported.

The imports that stand at the top are of modules that Python itself has loaded by then.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line, and ends with its exit code."""
    try:
        _leave_out_working_folder()
        from hpo import signals
        from hpo.text import streams

        signals.end_on_signals()
    except KeyboardInterrupt:
        os._exit(130)
    streams.prepare()
    from hpo.cli.main import main as run

    try:
        run()
        exit_code = 0
    except SystemExit as ended:
        exit_code = int(ended.code or 0)
    finally:
        signals.end_on_signals()
    exit_code = streams.finish(exit_code)
    if exit_code == signals.INTERRUPTED:
        # While Python winds up, a further signal would end it by that signal, and so does Python itself where the
        # KeyboardInterrupt came out of a text that was given to `exec`, by which dataclasses are made.
        os._exit(exit_code)
    sys.exit(exit_code)


def _leave_out_working_folder() -> None:
    """Takes the working folder, and that of the command's script, from where modules are found.

    In child processes too: a user's file may be called signal.py. What stays is the folder that this program itself is
    in, and what PYTHONPATH names; the working folder only where that has it by an absolute path.
    """
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    here = _working_folder()
    named = [
        os.path.abspath(entry)
        for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if os.path.isabs(entry) or (entry and here and os.path.abspath(entry) != here)
    ]
    first = "" if sys.flags.safe_path else sys.path[0]
    sys.path[:] = [entry for entry in sys.path if entry in (own, *named) or entry not in ("", here, first)]
    os.environ["PYTHONSAFEPATH"] = "1"
    if "PYTHONPATH" in os.environ:
        os.environ["PYTHONPATH"] = os.pathsep.join(named)


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""
