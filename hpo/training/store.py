"""Keeps recorded structures for the trials to come, and lets those go that were not asked for longest."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch

from hpo.training.recorded import RecordedRounds

STORE_BYTES = 4 * 1024**3
SHARE = 0.25  # of what is free on a GPU: other processes have stores of their own


def most_bytes(device: torch.device) -> int:
    """Returns how much of a device's memory idle structures may hold in this process."""
    return min(STORE_BYTES, int(SHARE * torch.cuda.mem_get_info(device)[0])) if device.type == "cuda" else STORE_BYTES


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

    def take(self, key: Hashable, numbers: Mapping[str, float]) -> RecordedRounds | None:
        """Takes out a structure of this key, one of these numbers rather than of others; None where there is none."""
        places = [place for place, one in enumerate(self._idle) if one.key == key]
        return self._idle.pop(max(places, key=lambda at: (self._idle[at].numbers == numbers, at))) if places else None

    def give_back(self, recorded: RecordedRounds) -> None:
        """Takes a structure in, and lets the oldest go while all together hold too much; the last stays."""
        recorded.end()
        self._idle.append(recorded)
        while len(self._idle) > 1 and sum(one.held_bytes for one in self._idle) > self._most_bytes:
            self._drop_oldest()

    def discard(self, recorded: RecordedRounds) -> None:
        """Lets one go that was taken."""
        recorded.wait()
        recorded.end()

    def clear(self) -> None:
        """Lets all go."""
        while self._idle:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._idle[0].wait()  # a trial that was ended early may have left it at work
        del self._idle[0]
