"""Standard output and standard error that neither an encoding, nor a reader that leaves, nor a full disk can break.

What a stream cannot encode is shown by stand-ins. What cannot be written is dropped, for work must not end because
nobody watches it; `finish` then says so, and makes it the exit code.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STANDARD = (0, 1, 2)  # input, output, error
ERRORS = "hpo-stand-ins"
ASCII = "hpo_ascii"
STAND_INS = {
    **{"±": "+-", "×": "x", "·": "-", "•": "*", "…": "...", "–": "-", "—": "-", "→": "->", "←": "<-", "≤": "<="},
    **{"≥": ">=", "µ": "u", "α": "alpha", "“": '"', "”": '"', "‘": "'", "’": "'", "\N{NO-BREAK SPACE}": " "},
    **dict.fromkeys("─━╸╺╶╴", "-"),
    **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯", "+"),
}

_outputs: dict[int, _Output] = {}


class _Output(io.FileIO):
    """A file descriptor that writes all it is given, and takes note of where it cannot."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Returns the number of bytes, as if they were written."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                written = super().write(left)
                if written is None:  # another program has made it non-blocking
                    select.select([], [self], [])
                left = left[written or 0 :]
        except OSError as error:
            self.failure = error
        return size


def prepare() -> None:
    """Replaces standard output and standard error by such streams; closed ones lead to nowhere.

    A closed one's number would be given to the next file that is opened, such as a database.
    """
    _open_closed()
    codecs.register(_find_codec)
    codecs.register_error(ERRORS, _stand_in)
    sys.stdout, sys.stderr = _replace(sys.stdout, 1), _replace(sys.stderr, 2)


def lost(seconds: float = 0.0) -> bool:
    """Says whether what is written to standard output arrives nowhere; waits up to `seconds` for a reader to leave."""
    output = _outputs.get(1)
    return (output is not None and output.failure is not None) or _reader_left(seconds)


def finish(exit_code: int) -> int:
    """Writes what is left, and returns the exit code; a reader that has left, as `head` does, is no failure."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    failure = _outputs[1].failure
    if failure is None or _reader_left():
        return exit_code
    print(f"hpo: standard output cannot be written: {failure.strerror}", file=sys.stderr, flush=True)
    return exit_code or 1


def _reader_left(seconds: float = 0.0) -> bool:
    """Says whether standard output is a pipe without a reader, or a terminal that has hung up."""
    poll = select.poll()
    poll.register(1, 0)  # errors and hang-ups are told unasked
    return bool(poll.poll(1000 * seconds))


def _open_closed() -> None:
    while (descriptor := os.open(os.devnull, os.O_RDWR)) in STANDARD:  # the lowest that is free
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _replace(stream: TextIO | None, descriptor: int) -> TextIO:
    output = _outputs[descriptor] = _Output(descriptor)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    unbuffered = bool(getattr(stream, "write_through", False))
    return io.TextIOWrapper(
        output if unbuffered else io.BufferedWriter(output),
        encoding=ASCII if codecs.lookup(encoding).name == "ascii" else encoding,
        errors=ERRORS,
        line_buffering=bool(getattr(stream, "line_buffering", True)),
        write_through=unbuffered,
    )


def _find_codec(name: str) -> codecs.CodecInfo | None:
    """ASCII by another name: click takes a stream that says "ascii" for a mistake, and writes UTF-8 to it."""
    if name != ASCII:
        return None
    found = codecs.lookup("ascii")
    return codecs.CodecInfo(
        found.encode, found.decode, found.streamreader, found.streamwriter,
        found.incrementalencoder, found.incrementaldecoder, name=ASCII,
    )  # fmt: skip


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(STAND_INS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in unknown), error.end
