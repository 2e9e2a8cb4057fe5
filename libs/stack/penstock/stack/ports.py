"""Ports of a stack: the fixed defaults, others only on a clash.

Stacks that come up at the same moment do not take each other's: `up` chooses under a lock and
writes down what it chose.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping

from penstock.contracts.errors import Unavailable
from penstock.contracts.services import PLATFORM
from penstock.runtime import ports as defaults

DEFAULTS: dict[str, int] = {
    "door": defaults.DOOR,
    "sites": defaults.SITES,
    "kafka": defaults.KAFKA,
    "kafka_controller": defaults.KAFKA + 1,
    "kafka_services": defaults.KAFKA + 2,
    "triton_metrics": defaults.TRITON_METRICS,
    **{name: service.port for name, service in PLATFORM.items()},
}
_STEP = 100  # ports from one try to the next
_TRIES = 150


def choose(wanted: Mapping[str, int], taken: Iterable[int] = ()) -> dict[str, int]:
    """Chooses each wanted port where it is free, else the next free one in steps of 100. `taken` is
    avoided although nothing listens there yet. Raises Unavailable.
    """
    avoided = set(taken)
    chosen: dict[str, int] = {}
    for name, port in wanted.items():
        candidates = range(port, min(port + _STEP * _TRIES, 65536), _STEP)
        chosen[name] = next((one for one in candidates if one not in avoided and _free(one)), 0)
        if not chosen[name]:
            raise Unavailable(
                f"no free port for {name} in {_TRIES} tries from {port}",
                remedy="End what listens on these ports",
            )
        avoided.add(chosen[name])
    return chosen


def _free(port: int) -> bool:
    """Tells whether nothing listens on 127.0.0.1:port, nor on the port at every address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True
