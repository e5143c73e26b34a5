"""`hpo dashboard`: optuna-dashboard, by a link with a token."""

from __future__ import annotations

import click

from hpo.cli.arguments import Host, WholeNumber
from hpo.cli.options import storage_option


@click.command()
@storage_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, type=Host(), metavar="ADDRESS", help="The address to listen on."
)
@click.option("--port", default=8080, show_default=True, type=WholeNumber(1, 65535), metavar="PORT", help="Its port.")
@click.option(
    "--allow-host", "names", multiple=True, type=Host(), metavar="NAME[:PORT]",
    help="Another name by which it may be opened, as behind a proxy. Can be repeated.",
)  # fmt: skip
@click.option("--writable", is_flag=True, help="Let the page change and delete studies.")
def dashboard(storage: str, host: str, port: int, names: tuple[str, ...], writable: bool) -> None:
    """Browse studies in optuna-dashboard, by a link with a token.

    HPO_DASHBOARD_TOKEN sets the token; beyond this machine (--host) it must. The connection is not encrypted: put a
    proxy with TLS before it where it leaves the machine. Without --writable the page's buttons that create, rename and
    delete are still there, and fail.
    """
    from hpo.dashboard.server import serve_dashboard
    from hpo.storage.backends import open_storage

    opened = open_storage(storage)  # or a mistyped name would leave an empty database
    if writable:
        opened = open_storage(storage, write=True)
    serve_dashboard(opened, host=host, port=port, names=names, writable=writable)
