"""Keeps recorded structures for the trials to come, and lets those go that were not asked for longest."""

from __future__ import annotations

from collections.abc import Hashable

from hpo.training.recorded import RecordedRounds


class Store:
    """Recorded structures that no trial uses now, the one that was used last at the end.

    A trial takes one and gives it back: no two trials can share its memory at a time, so that there may be several of
    one structure.

    Args:
        most_bytes: of the device's memory that they may hold together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._idle: list[RecordedRounds] = []

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, key: Hashable) -> RecordedRounds | None:
        """Takes out a structure of this key; None where there is none."""
        for place in reversed(range(len(self._idle))):
            if self._idle[place].key == key:
                return self._idle.pop(place)
        return None

    def give_back(self, recorded: RecordedRounds) -> None:
        """Takes a structure in, and lets the oldest go while all together hold too much; the last stays."""
        self._idle.append(recorded)
        while len(self._idle) > 1 and sum(one.held_bytes for one in self._idle) > self._most_bytes:
            self._idle[0].wait()  # a trial that was ended early may have left it at work
            del self._idle[0]
