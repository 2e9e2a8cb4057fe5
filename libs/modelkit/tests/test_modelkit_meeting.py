"""The port at which workers of several machines meet."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.modelkit.meeting import reserved
from penstock.modelkit.process_group import PeerLost, by_address

HOST = "127.0.0.1"


def test_a_held_port_is_nobody_elses_until_the_leader_listens_there() -> None:
    with reserved(HOST) as held:
        port = held.getsockname()[1]
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((HOST, port))
        with socket.socket() as early:
            assert early.connect_ex((HOST, port)) != 0, "nobody listens yet"
        with ThreadPoolExecutor(1) as beside:
            follower = beside.submit(by_address, HOST, port, "s3cret", 2, leads=False)
            leader = by_address(HOST, port, "s3cret", 2, leads=True)
            leader.set("said", "by the leader")
            assert follower.result(30).get("said") == b"by the leader"


def test_a_port_that_another_program_took_is_said() -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        with pytest.raises(PeerLost, match="in use"):
            by_address(HOST, other.getsockname()[1], "s3cret", 2, leads=True)
