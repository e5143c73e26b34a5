"""`hpo worker`: serves every unfinished study in a storage."""

from __future__ import annotations

import click

from hpo.cli.arguments import StudyName
from hpo.cli.options import Given, device_option, sources_options, storage_option, stored_name, workers_option
from hpo.cli.run import begin_work, serve_studies


@click.command()
@storage_option
@click.argument("places", nargs=-1, type=StudyName(), metavar="[STUDY]...")
@click.option(
    "--study",
    "named",
    type=StudyName(),
    metavar="STUDY",
    multiple=True,
    help="The same as STUDY: serve it alone. Can be repeated.",
)
@workers_option
@device_option
@click.option(
    "--exit-when-done",
    is_flag=True,
    help="End when every study has its trials, those too that are still to come.",
)
@sources_options
def worker(
    storage: str,
    places: tuple[str, ...],
    named: tuple[str, ...],
    workers: str,
    device: str,
    exit_when_done: bool,
    given: Given,
) -> None:
    """Serve every unfinished study in a storage, and wait for more.

    Start it on as many machines as there are. A study enters the storage with `hpo optimize`, which says how many
    trials it shall have; a worker that was started before waits for it.
    """
    from hpo.storage.backends import open_storage
    from hpo.workers.devices import assign_devices, trials_at_once

    begin_work()
    devices = assign_devices(workers, device)
    opened = open_storage(storage, create=True)
    studies = (*places, *named)
    sources, names = given.sources(*studies), tuple(map(stored_name, studies))
    serve_studies(
        *(opened, names or None),
        devices=devices,
        at_once=trials_at_once(workers),
        sources=sources,
        exit_when_done=exit_when_done,
    )
