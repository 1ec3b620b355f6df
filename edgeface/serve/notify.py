"""What systemd is told of a service of `Type=notify`: that it is ready, alive, and about to end.

The protocol is `sd_notify(3)`: lines `NAME=VALUE` in a datagram to the socket that NOTIFY_SOCKET
names. Without that variable, as under another supervisor or none, nothing is told.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"
SHARE = 0.4  # of the time that systemd waits for a sign of life; it advises less than half


class Supervisor:
    """Tells systemd how the service is."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._place = environment.get("NOTIFY_SOCKET", "")
        self._every = _span(environment)
        self._next = 0.0

    def tell(self, *states: str) -> bool:
        """Send states; whether somebody was told. A failure is logged: the service goes on."""
        if not self._place:
            return False
        # A leading @ is an abstract address, which begins with a zero byte.
        place = f"\0{self._place[1:]}" if self._place.startswith("@") else self._place
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.sendto("\n".join(states).encode(), place)
        except (OSError, AttributeError) as error:
            log.warning("systemd cannot be told %s: %s", states[0], error)
            return False
        return True

    def live(self) -> None:
        """Give a sign of life if it is time for one; cheap enough to be called at every turn of a
        loop, which must not hang without systemd noticing."""
        now = time.monotonic()
        if self._every is not None and now >= self._next:
            self._next = now + self._every
            self.tell(ALIVE)


def _span(environment: Mapping[str, str]) -> float | None:
    """Seconds between signs of life, None if nobody waits for ours."""
    text, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID")
    if not text.isdecimal() or not int(text) or process not in (None, str(os.getpid())):
        return None
    return SHARE * int(text) / 1e6
