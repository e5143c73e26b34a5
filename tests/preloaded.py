"""Does at import what processes do at their first trial; the warm process (tests/warm.py) imports it last.

What is forked then has its mappers configured and its statements compiled.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

from numba.core.registry import cpu_target

from hpo.analysis.results import read_best
from hpo.storage.backends import open_storage
from hpo.workers.status import read_status
from tests.conftest import SMALL_STUDY, create, defined, work

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    opened = open_storage(f"sqlite:///{folder}/studies.db", create=True)
    create(opened, "small", defined(SMALL_STUDY, "small"), 4)
    work(opened, folder, target=4)
    read_status(opened, "small")
    read_best(opened, "small")
    opened.engine.dispose()
for context in (cpu_target.typing_context, cpu_target.target_context):
    context.refresh()  # Numba loads what a kernel may use
gc.collect()
gc.freeze()  # a collection in a forked process would copy all these pages
