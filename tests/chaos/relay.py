"""A slow link: two TUN devices, and a process between them that delivers every packet late.

    python -m tests.chaos.relay NEAR FAR SECONDS      # prints a line when both are there; they go when it ends

Linux has a queueing discipline for it, netem, which not every kernel is built with; TUN devices are everywhere.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
LARGEST_PACKET = 65536


def open_device(name: str) -> int:
    """Creates a TUN device, and returns the descriptor from which its packets are read."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def carry(near: int, far: int, seconds: float) -> None:
    """Delivers what comes out of each device to the other, so many seconds later, for ever."""
    across = {near: far, far: near}
    on_the_way: deque[tuple[float, int, bytes]] = deque()
    while True:
        wait = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        for descriptor in select.select(list(across), [], [], wait)[0]:
            packet = os.read(descriptor, LARGEST_PACKET)
            on_the_way.append((time.monotonic() + seconds, across[descriptor], packet))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, descriptor, packet = on_the_way.popleft()
            with suppress(OSError):  # the link is cut: the packet is lost
                os.write(descriptor, packet)


def main(near: str, far: str, seconds: str) -> None:
    """Carries packets until it is killed."""
    descriptors = open_device(near), open_device(far)
    print("ready", flush=True)
    carry(*descriptors, float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
