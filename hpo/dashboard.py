"""Starts optuna-dashboard on a storage, for this machine only.

The bare dashboard has no login, and lets whoever reaches it delete studies; so it listens on the loopback address and
nowhere else.
"""

from __future__ import annotations

import optuna
import plotly.graph_objects as go
from optuna.storages import RDBStorage
from optuna_dashboard import save_plotly_graph_object, wsgi
from waitress.server import create_server

from .errors import RequestError

HOST = "127.0.0.1"


def serve_dashboard(storage: RDBStorage, port: int) -> None:
    """Serves the dashboard until it is interrupted.

    Raises:
        RequestError: where the port is taken.
    """
    try:
        server = create_server(wsgi(storage), host=HOST, port=port)
    except OSError as error:
        raise RequestError(f"port {port} cannot be had ({error.strerror}); --port names another") from error
    print(f"dashboard: http://{HOST}:{port}/dashboard/ (Ctrl-C ends it)", flush=True)
    server.run()


def save_figure(storage: RDBStorage, study: str, name: str, figure: go.Figure) -> None:
    """Saves a plotly figure into a study, whose page shows it in its own size; one of the same name is replaced."""
    fitted = go.Figure(figure).update_layout(width=None, height=None, legend={"orientation": "h", "y": -0.2})
    save_plotly_graph_object(optuna.load_study(study_name=study, storage=storage), fitted, graph_object_id=name)
