"""Does at import what processes do at their first trial; the warm process (tests/warm.py) imports it last.

What is forked then has its mappers configured and its statements compiled.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner
from numba.core.registry import cpu_target

from hpo.cli.main import main
from hpo.storage.backends import open_storage
from tests.conftest import SMALL_STUDY, create, defined, work

READING = ("status", "best", "trials", "compare", "report -o REPORT", "optimize")

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    opened = open_storage(f"sqlite:///{folder}/studies.db", create=True)
    create(opened, "small", defined(SMALL_STUDY, "small"), 4)
    work(opened, folder, target=4)
    with patch("hpo.report.html.draw_pngs", lambda figures: ({}, "")):
        for command in READING:
            words = command.replace("REPORT", f"{folder}/report").split()
            done = CliRunner().invoke(main, [*words, "--study", "small", "--storage", opened.url])
            assert done.exit_code == 0, done.output
    opened.engine.dispose()
for context in (cpu_target.typing_context, cpu_target.target_context):
    context.refresh()  # Numba loads what a kernel may use
gc.collect()
gc.freeze()  # a collection in a forked process would copy all these pages
