"""Starts optuna-dashboard on a storage, behind the guard of `access.py`."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Collection, Iterable
from functools import partial

import optuna
import plotly.graph_objects as go
from optuna.storages import RDBStorage
from optuna_dashboard import save_plotly_graph_object, wsgi

from hpo.dashboard.access import Application, Environ, Guard, Headers, Policy, StartResponse
from hpo.dashboard.http import make_server
from hpo.errors import RequestError
from hpo.report.figures import with_texts_escaped
from hpo.storage.artifacts import DatabaseArtifacts
from hpo.storage.queries import count_trials_of, read_fault
from hpo.text.output import say
from hpo.text.secrets import read_secret, remember, show_url

# A trial's attributes: the page has each on one line, however long, and grows with it.
STYLE = b"""<style>
.MuiBox-root > .MuiBox-root > p.MuiTypography-body1 { white-space: pre-wrap; overflow-wrap: anywhere; }
</style>"""
PAGES = re.compile("/dashboard(/|$)")
TOKEN = "HPO_DASHBOARD_TOKEN"
TOKENS = re.compile(r"[A-Za-z0-9._~-]{16,}")  # as links and cookies take them unchanged


def serve_dashboard(
    storage: RDBStorage, *, host: str, port: int, names: Collection[str] = (), writable: bool = False
) -> None:
    """Serves the dashboard until it is interrupted, and prints the link that opens it.

    Args:
        host: the address to listen on.
        names: what else it may be called in a link, `NAME` or `NAME:PORT`: behind a proxy, or by other machines.
        writable: whether the page may change studies.

    Raises:
        RequestError: where the port is taken, or others than this machine could reach it without a token of the user's.
    """
    chosen = choose_token(host)
    own_names = [_bracketed(name) for name in {host, *(("127.0.0.1", "localhost", "::1") if is_loopback(host) else ())}]
    own_names = [f"{name}:{port}" for name in own_names] + (own_names if port == 80 else [])
    policy = Policy(
        token=chosen or secrets.token_urlsafe(24),
        cookie=f"hpo_{port}",
        hosts=frozenset(name.lower() for name in (*own_names, *names)),
        writable=writable,
    )
    try:
        dashboard = styled(wsgi(storage, artifact_store=DatabaseArtifacts(storage)))
        guarded = Guard(dashboard, policy, partial(count_trials_of, storage), partial(_tell_of_fault, storage, []))
        server = make_server(guarded, guarded.knows, host=host, port=port, uploads=writable)
    except OSError as error:
        raise RequestError(f"{host} port {port} cannot be had ({error.strerror}); --port names another") from error
    address = f"http://{_bracketed(host)}:{port}/dashboard/"
    link = f"{address}?token={policy.token}" if not chosen else f"{address}?token=${TOKEN}"
    print(f"dashboard ({'writable' if writable else 'for reading'}; Ctrl-C ends it): {link}", flush=True)
    server.run()


def _tell_of_fault(storage: RDBStorage, told: list[str | None]) -> str | None:
    """Returns why the storage cannot be read, if it cannot, and prints it when that is new."""
    fault = read_fault(storage)
    if fault != (told[-1] if told else None):
        told[:] = [fault]
        say(fault or f"storage {show_url(storage.url)} can be read again", err=True)
    return fault


def styled(application: Application) -> Application:
    """Returns the dashboard with `STYLE` in its page's head; files and answers of its API stay as they are."""

    def serve(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        started: list[tuple[str, Headers]] = []
        body = application(environ, lambda status, headers, *error: started.append((status, headers)))
        status, headers = started[-1]
        if environ["REQUEST_METHOD"] == "GET" and PAGES.match(environ["PATH_INFO"]) and status.startswith("200"):
            body = [b"".join(body).replace(b"</head>", STYLE + b"</head>", 1)]
            headers = [(key, value) for key, value in headers if key.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body[0]))))
        start_response(status, headers)
        return body

    return serve


def choose_token(host: str) -> str | None:
    """Returns the token that the user has chosen, if any, and takes note that it is a secret.

    Raises:
        RequestError: where it is too short or has other characters than a link takes, its file cannot be read or is
            empty, or there is none for a host that others can reach.
    """
    token = os.environ.get(TOKEN)
    file = os.environ.get(f"{TOKEN}_FILE")
    if token is None and file:
        token = read_secret(file, "the dashboard's token")
    if token is None and not is_loopback(host):
        raise RequestError(
            f"--host {host} shows the dashboard to other machines, so it needs a token of yours: set {TOKEN} "
            "to 16 characters or more"
        )
    if token is not None and not TOKENS.fullmatch(token):  # the value is a secret, and not said
        raise RequestError(
            f"{TOKEN} must be 16 or more letters, digits, or - . _ ~, as openssl rand -hex 16 makes them"
        )
    remember(token or "")
    return token


def is_loopback(host: str) -> bool:
    """Says whether only this machine reaches an address; a name that is not localhost could be any."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def save_figure(storage: RDBStorage, study: str, name: str, figure: go.Figure) -> None:
    """Saves a plotly figure into a study, whose page shows it in its own size; one of the same name is replaced."""
    fitted = with_texts_escaped(figure).update_layout(width=None, height=None, legend={"orientation": "h", "y": -0.2})
    save_plotly_graph_object(optuna.load_study(study_name=study, storage=storage), fitted, graph_object_id=name)
