"""The program's process as it is forked from the warm one (tests/warm.py), with the standard streams of a new one."""

from __future__ import annotations

import ctypes
import io
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import BinaryIO, TextIO

from hpo.report import figures
from hpo.report import html as page
from hpo.workers import launch, supervisor
from hpo.workers.alone import Alone
from tests.warm import WARM, share_server, warm_workers

CAPABILITIES_3 = 0x20080522  # linux/capability.h


def start_forked(
    arguments: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    streams: Mapping[int, BinaryIO | int],
    **how: bool,
) -> BaseProcess:
    """Starts `hpo` in a forked process, whose standard streams are given by number."""
    given = {
        number: Connection(os.dup(stream if isinstance(stream, int) else stream.fileno()))
        for number, stream in streams.items()
    }
    process = WARM.Process(target=_run, args=(arguments, str(folder), environment, given), kwargs=how)
    process.start()
    for stream in given.values():
        stream.close()
    return process


def _run(
    arguments: Sequence[str],
    folder: str,
    environment: dict[str, str],
    streams: dict[int, Connection],
    *,
    alone: bool = False,
    privileged: bool = True,
    group: bool = False,
) -> None:
    if group:
        os.setpgid(0, 0)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if number in streams:
            os.dup2(streams[number].fileno(), number)
            streams[number].close()
            setattr(sys, name, _opened(number, environment))
    if not privileged:
        _drop_rights()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["hpo", *arguments]
    if alone:
        for owner in (supervisor, launch):
            vars(owner)["Supervisor"] = Alone
        for module in (figures, page):
            vars(module)["draw_pngs"] = lambda figures: ({}, "")
    from hpo.entry import main as run

    share_server()
    with warm_workers():
        try:
            run()
        finally:
            _flush()


def _opened(number: int, environment: Mapping[str, str]) -> TextIO:
    """Returns a standard stream as Python opens it where it starts."""
    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    errors = "backslashreplace" if number == 2 else errors or "strict"
    if number == 0:
        return os.fdopen(number, encoding=encoding, errors=errors, closefd=False)
    unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    return io.TextIOWrapper(
        os.fdopen(number, "wb", 0 if unbuffered else -1, closefd=False),
        encoding=encoding,
        errors=errors,
        line_buffering=os.isatty(number),
        write_through=unbuffered,
    )


def _flush() -> None:
    """Writes what is left, and where that cannot be ends as Python does."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        print(f"Exception ignored: {error}", file=sys.stderr)
        sys.exit(120)


def _drop_rights() -> None:
    """Leaves this process no capability, which root would pass over permissions with."""
    header, none = (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
