"""What the commands that measure share: workers run, and how far they are is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.signals import stop_on_signals
from hpo.text.commands import this_command
from hpo.text.formatting import count
from hpo.text.output import say

if TYPE_CHECKING:
    from hpo.study.references import Sources
    from hpo.workers.messages import Checked


def run_trials(
    opened: Any,
    plan: Any,
    devices: list[str],
    sources: Any,
    *more: str,
    at_once: int | None = 1,
    supervisor: Any | None = None,
) -> None:
    """Brings a study to its trials, showing how far it is.

    Args:
        more: what this command needs besides, to go on after an interruption.
        at_once: how many trials a worker runs at once, see `Assignment`.
        supervisor: the one whose workers wait for orders already, if any.
    """
    from hpo.cli.console import Console
    from hpo.cli.terminal import StudyProgress
    from hpo.workers.launch import run_study

    definition = plan.definition
    progress = StudyProgress(Console(stderr=True), plan.target, definition.steps or 1, definition.step_word)
    try:
        with progress:
            run_study(
                opened,
                plan,
                devices=devices,
                at_once=at_once,
                sources=sources,
                show=progress.show,
                meanwhile=lambda: _note(opened, plan.name),
                supervisor=supervisor,
            )
        _note(opened, plan.name)  # again: what is best, and whether it diverged, is known now
    except KeyboardInterrupt:  # the database may be away, so nothing is asked of it
        say(
            f"interrupted; {progress.finished} of {count(plan.target, 'trial')} finished, and this goes on with them:",
            f"  {this_command(*more)}",
            err=True,
        )
        raise


def checked_by(supervisor: Any, wanted: Any, device: str, sources: Sources, *, promises: bool = False) -> Checked:
    """Lets the first worker check a study, and what its task promises, saying on a terminal what it does."""
    from hpo.cli.console import Console
    from hpo.workers.messages import Check

    console = Console(stderr=True)
    order = Check(wanted.name, wanted.definition, device, sources, promises)
    if not console.is_terminal:
        silent: Checked = supervisor.check_study(order, lambda doing: None)
        return silent
    with console.status("") as status:
        watched: Checked = supervisor.check_study(order, lambda doing: status.update(f"checking the study: {doing}"))
        return watched


def begin_work() -> None:
    """Begins a command that works: signals interrupt it from here on, rather than end it.

    Raises:
        RequestError: where the working folder is gone, without which neither worker processes nor torch can start.
    """
    from hpo.errors import RequestError, is_adrift

    stop_on_signals()
    if is_adrift():
        raise RequestError("the working folder is gone, so change to another")


def serve_studies(
    opened: Any,
    studies: tuple[str, ...] | None,
    *,
    devices: list[str],
    at_once: int | None,
    sources: Any,
    exit_when_done: bool,
) -> None:
    """Lets workers serve studies, all or those of these names, and shows how far they are.

    Args:
        opened: the storage.
        at_once: how many trials a worker runs at once, see `Assignment`.
    """
    from hpo.cli.console import Console
    from hpo.cli.read.status import statuses_view
    from hpo.cli.terminal import Watch
    from hpo.workers.launch import serve

    try:
        with Watch(Console(stderr=True)) as watch:
            serve(
                opened,
                studies,
                devices=devices,
                at_once=at_once,
                sources=sources,
                exit_when_done=exit_when_done,
                show=lambda statuses: watch.show(statuses_view(statuses)),
                meanwhile=lambda study: _note(opened, study),
            )
    except KeyboardInterrupt:
        say("interrupted; this goes on:", f"  {this_command()}", err=True)
        raise


def _note(opened: Any, study: str) -> None:
    """Gives a study its note; at first while the workers start, which leaves a second for it."""
    from hpo.dashboard.note import note_study

    note_study(opened, study)
