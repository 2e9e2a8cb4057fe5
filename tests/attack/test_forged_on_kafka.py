"""Forged facts on the real topics of a running stack: with a key that nobody knows, by another role,
with a field changed, or an old one once more. None has an effect; what is forged is a dead letter
with its reason and a line in the log.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from census import Served, Succession
from wire import Genuine, Letters, Sent, Wire, forge, pids, state, told

from penstock.contracts.events import EVENTS
from penstock.packages.keys import ROLES, Keys, Signer
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until

pytestmark = pytest.mark.stack

CHANGED = {
    "PipelineApplied": ("number",),
    "TrainingRunCompleted": ("digest",),
    "ModelVersionRegistered": ("version", "run_id"),
    "ModelVersionPromoted": ("generation",),
    "AuditCompleted": ("audit_id",),
}
"""Facts that are forged, with a field of each that is signed."""


def signer(keys: Keys, roles: dict[str, Any], envelope: dict[str, Any], *, same: bool) -> Signer:
    role = roles[envelope["signatures"][0]["keyid"]]
    return keys.signer(next(one for one in ROLES if (one == role) is same))


def changed(event: Any, path: tuple[str, ...]) -> Any:
    event = json.loads(json.dumps(event))
    holder = event
    for name in path[:-1]:
        holder = holder[name]
    old = holder[path[-1]]
    holder[path[-1]] = old + 1 if isinstance(old, int) else old[:-1] + ("0" if old[-1] != "0" else "1")
    return event


@pytest.fixture
def ways(stack: StackUnderTest, tmp_path: Path) -> dict[str, Callable[[Any, str], Any]]:
    keys, stranger = Keys(stack.home / "keys"), Keys(tmp_path / "stranger")
    stranger.ensure()
    roles = {keyid: key.role for keyid, key in keys.trust().keys.items()}
    return {
        "an unknown key": lambda event, _: forge(event, partial(signer, stranger, roles, same=True)),
        "another role": lambda event, _: forge(event, partial(signer, keys, roles, same=False)),
        "a changed field": lambda event, name: changed(event, CHANGED[name]),
    }


def test_forged_facts_on_the_real_topics_have_no_effect(
    served: Served,
    rolling: Succession,
    stack: StackUnderTest,
    ways: dict[str, Callable[[Any, str], Any]],
) -> None:
    client, kafka = served.client, stack.stack.admin
    wire, seen = Wire(kafka), Letters(client, kafka)
    before, running = state(client), pids(stack)
    genuine = told(client)
    forged = [
        sent(newest(genuine, name), make(newest(genuine, name).event, name), f"{name}, {how}")
        for name in CHANGED
        for how, make in ways.items()
    ]
    old = [sent(oldest(genuine, name, rolling), None, f"{name}, once more") for name in CHANGED]
    for one in [*forged, *old]:
        wire.send(one)
    wire.flush()
    until(
        lambda: {one.place for one in forged} - seen.look().keys(),
        accept=lambda left: not left,
        within=30,
        what="each is a dead letter",
    )
    lines = [line for service in running for line in stack.log(service).splitlines()]
    for one in forged:
        place = "/".join(map(str, one.place))
        assert any("event_rejected" in line and place in line for line in lines), one.made
    assert state(client) == before
    assert pids(stack) == running
    seen.close()


def newest(genuine: list[Genuine], name: str) -> Genuine:
    return next(one for one in reversed(genuine) if EVENTS[one.event_type].__name__ == name)


def oldest(genuine: list[Genuine], name: str, rolling: Succession) -> Genuine:
    """About the version that another one replaced."""
    return next(
        one
        for one in genuine
        if EVENTS[one.event_type].__name__ == name
        and (name == "PipelineApplied" or rolling.first.digest in json.dumps(one.event))
    )


def sent(one: Genuine, event: Any, made: str) -> Sent:
    said = [(name, value.encode()) for name, value in (one.headers | {"ce_id": made}).items()]
    return Sent(one.topic, json.dumps(event or one.event).encode(), one.key, list(said), made)
