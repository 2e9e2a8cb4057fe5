"""Forged facts on the real topics of a running stack, of each type that is signed: with a key that
nobody knows, by another role, with any field changed, unsigned, or an old one once more. None has an
effect; what is forged is a dead letter with its reason and a line in the log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from census import ROOT, Served, Succession
from wire import Genuine, Letters, Place, Sent, Wire, envelopes, forge, pids, state, told, unsigned

from penstock.contracts.events import EVENTS, Event, ReviewDecided, encode
from penstock.packages import dsse, facts
from penstock.packages.keys import ROLES, Keys, Signer
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until

pytestmark = pytest.mark.stack

SIGNED = {
    event.__name__: event
    for event in EVENTS.values()
    if any("Envelope" in str(field.annotation) for field in event.model_fields.values())
}
"""Event types that bear a signed statement, by name."""
FOR_RECOVERY = {"AuditStarted", "TrainingRunStarted", "ModelVersionRefused"}
"""Types that only the service reads that stated them, when its database is lost:
`test_forged_facts.py` has those.
"""
REPEATED = {"AuditCompleted": {"completed_at", "verdict"}, "ReviewDecided": {"decision"}}
"""Fields of which the envelope's own statement counts."""
Way = Callable[[Any], Any]


@pytest.fixture
def keys(stack: StackUnderTest) -> Keys:
    return Keys(stack.home / "keys")


@pytest.fixture
def genuine(served: Served, rolling: Succession, keys: Keys) -> list[Genuine]:
    """Every fact on the topics; of a type that is on none, one about the version that serves."""
    found = [one for one in told(served.client) if EVENTS[one.event_type].__name__ in SIGNED]
    there = {one.event_type for one in found}
    return found + [
        made(event, newest(found, "ModelVersionRegistered").event["version"], keys)
        for event in SIGNED.values()
        if event.ce_type() not in there
    ]


def made(event: type[Event], version: dict[str, Any], keys: Keys) -> Genuine:
    """The contracts' example, about this version, signed by who may state it."""
    example = json.loads((ROOT / "schemas" / "examples" / f"{event.__name__}.json").read_bytes())
    about = version | {"version": version}
    aimed = event.model_validate({name: about.get(name, said) for name, said in example.items()})
    fact = _decided(aimed, keys) if isinstance(aimed, ReviewDecided) else _signed(aimed, keys)
    headers = {"ce_specversion": "1.0", "ce_type": event.ce_type(), "ce_source": "/penstock/x"}
    return Genuine(event.ce_type(), event.topic, fact.key.encode(), headers, json.loads(encode(fact)))


def _signed(fact: Any, keys: Keys) -> Event:
    for role in ROLES:
        with suppress(ValueError):  # another one states it
            return cast(Event, facts.signed(fact, keys.signer(role)))
    raise AssertionError(f"nobody may state a {type(fact).__name__}")


def _decided(review: ReviewDecided, keys: Keys) -> Event:
    said = ("pipeline", "digest", "audit_id", "decided_by", "why")
    stated = facts.Rejection(at=review.decided_at, **{name: getattr(review, name) for name in said})
    rejection = dsse.sign(stated, keys.signer("audit"))
    fact = review.model_copy(update={"decision": "rejected", "waiver": None, "rejection": rejection})
    facts.verify_review(fact, keys.trust())
    return fact


@pytest.fixture
def ways(keys: Keys, tmp_path: Path) -> dict[str, Way]:
    stranger = Keys(tmp_path / "stranger")
    stranger.ensure()
    roles = {keyid: key.role for keyid, key in keys.trust().keys.items()}

    def signer(of: Keys, envelope: dict[str, Any], *, same: bool) -> Signer:
        role = roles[envelope["signatures"][0]["keyid"]]
        return of.signer(next(one for one in ROLES if (one == role) is same))

    return {
        "an unknown key": lambda event: forge(event, partial(signer, stranger, same=True)),
        "another role": lambda event: forge(event, partial(signer, keys, same=False)),
        "no signature": unsigned,
    }


def changes(name: str, event: Any) -> Iterator[tuple[str, Any]]:
    """The event with another value in one field, for each plain one that is signed."""
    for holder in (event, event.get("version", {})):
        for field, old in list(holder.items()):
            if field not in REPEATED.get(name, ()) and old and isinstance(old, int | str):
                holder[field] = old + 1 if isinstance(old, int) else another(old)
                yield field, json.loads(json.dumps(event))
                holder[field] = old


def another(text: str) -> str:
    """Another text of the same form, be it a time, a digest or a name."""
    at = max((at for at, letter in enumerate(text) if letter.isdigit()), default=None)
    return f"{text}x" if at is None else f"{text[:at]}{'1' if text[at] != '1' else '2'}{text[at + 1 :]}"


def test_forged_facts_on_the_real_topics_have_no_effect(
    served: Served, stack: StackUnderTest, genuine: list[Genuine], ways: dict[str, Way], rolling: Succession
) -> None:
    client, kafka = served.client, stack.stack.admin
    wire, seen = Wire(kafka), Letters(client, kafka)
    before, running = state(client), pids(stack)
    forged = []
    for name in SIGNED:
        fact = newest(genuine, name)
        assert any(envelopes(fact.event)), name
        forged += [sent(fact, make(fact.event), f"{name}, {how}") for how, make in ways.items()]
        changed = [
            sent(fact, event, f"{name}, another {field}") for field, event in changes(name, fact.event)
        ]
        assert len(changed) >= 3, name
        forged += changed
    old = [sent(one, None, f"{name}, once more") for name in SIGNED for one in older(genuine, name, rolling)]
    for one in [*forged, *old]:
        wire.send(one)
    wire.flush()
    forged = [one for one in forged if one.made.split(",")[0] not in FOR_RECOVERY]
    places = {one.place: one.made for one in forged}
    until(
        lambda: {places[place] for place in places.keys() - seen.look().keys()},
        accept=lambda left: not left,
        what="each is a dead letter",
    )
    until(
        lambda: places.keys() - rejected(stack, running),
        accept=lambda left: not left,
        what="each has a line in a log",
    )
    assert state(client) == before
    assert pids(stack) == running
    seen.close()


def rejected(stack: StackUnderTest, services: Iterable[str]) -> set[Place]:
    """Places of the messages that the services' logs name as put aside."""
    lines = (line for service in services for line in stack.log(service).splitlines())
    found = (json.loads(line)["place"].split("/") for line in lines if '"event_rejected"' in line)
    return {(topic, int(partition), int(offset)) for topic, partition, offset in found}


def newest(genuine: list[Genuine], name: str) -> Genuine:
    return next(one for one in reversed(genuine) if EVENTS[one.event_type].__name__ == name)


def older(genuine: list[Genuine], name: str, rolling: Succession) -> list[Genuine]:
    """Those about the version that another one replaced, or a pipeline's earlier file."""
    of_one = [one for one in genuine if EVENTS[one.event_type].__name__ == name]
    replaced = (rolling.first.digest, rolling.first.run_id)
    found = [one for one in of_one if any(said in json.dumps(one.event) for said in replaced)]
    return found or of_one[: name == "PipelineApplied"]


def sent(one: Genuine, event: Any, made: str) -> Sent:
    said = [(name, value.encode()) for name, value in (one.headers | {"ce_id": made}).items()]
    return Sent(one.topic, json.dumps(event or one.event).encode(), one.key, list(said), made)
