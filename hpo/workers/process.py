"""A worker process: waits for its supervisor's orders, and follows it, whatever happens."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from hpo.errors import HpoError, explain_os_error
from hpo.signals import INTERRUPTED, SIGNALS, end_on_signals, hush
from hpo.storage.backends import FAILURES, explain_failure
from hpo.text.output import guard_streams
from hpo.text.secrets import show_url
from hpo.text.streams import prepare
from hpo.workers.checking import check_study
from hpo.workers.evaluate import Stop
from hpo.workers.messages import Check, Checking, Crashed, GaveUp, Message, StepDone
from hpo.workers.worker import run_worker

STOP_SECONDS = 10.0  # that a worker is left to stop in
UNGUARDED = os.EX_USAGE  # the exit code of one whose script, run again to be imported, starts workers itself


def end_if_imported() -> None:
    """Ends this process if it is a worker that is about to import the script which has started it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself finds out
        sys.exit(UNGUARDED)


def live(preload: str, parent: Connection) -> None:
    """The life of a worker process; what ends it for good it says to its parent.

    Args:
        preload: a module to import before anything is asked for, if any.
        parent: where orders come from, and what is done is told.
    """
    _settle()
    stop = Stop()

    def tell(said: Message) -> None:
        if not isinstance(said, StepDone) or _has_room(parent):
            with suppress(BrokenPipeError):  # the parent is gone: `_follow_parent` ends us too
                parent.send(said)

    url = ""
    try:
        if preload:
            importlib.import_module(preload)
        order = parent.recv()
        if isinstance(order, Check):
            tell(check_study(order, lambda what: tell(Checking(what))))
            order = parent.recv()
        url = order.url
        module, _, function = order.make_objective.partition(":")
        make_objective = getattr(importlib.import_module(module), function)
        signal.signal(signal.SIGTERM, stop.ask)
        run_worker(order, make_objective, stop, tell)
    except EOFError:  # the parent is gone
        pass
    except KeyboardInterrupt:
        if not stop.asked:  # a signal would have ended this process, so it comes from the study's code
            tell(GaveUp(None, "the code of the study raises KeyboardInterrupt, so it cannot be measured", 2))
    except HpoError as error:
        tell(GaveUp(None, str(error), error.exit_code))
    except FAILURES as error:
        tell(GaveUp(None, f"storage {show_url(url)} failed: {explain_failure(error)}", 1))
    except OSError as error:
        tell(GaveUp(None, explain_os_error(error), 1))
    except Exception as error:
        tell(Crashed(f"{type(error).__name__}: {error}".partition("\n")[0]))
        raise
    finally:
        for child in multiprocessing.active_children():  # of the task, as joblib's; Python would wait for them
            child.kill()
    sys.exit(INTERRUPTED if stop.asked else 0)


def _settle() -> None:
    """Prepares streams and signals, and follows the parent from now on."""
    prepare()
    guard_streams()
    hush()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_on_signals()  # while it imports torch, it has nothing to give back
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _has_room(connection: Connection) -> bool:
    """Whether something can be sent at once: no training shall wait for a parent that waits for the database."""
    return bool(select.select([], [connection], [], 0)[1])


def _follow_parent() -> None:
    """Waits for the parent's end, however it comes, and follows it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(INTERRUPTED)
