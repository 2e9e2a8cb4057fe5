"""Somebody whom Kafka lets write every topic publishes what is no event, no record and no id: each is
left out with its place and reason, nobody stops, and what is genuine goes on.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from census import ROOT, Served, pipeline_text, serve
from pydantic import ValidationError
from wire import (
    Genuine,
    Letters,
    Sent,
    Wire,
    envelopes,
    forge,
    memory,
    pids,
    readers,
    restated,
    state,
    summary,
    told,
    unsigned,
    until_no_more,
)

from penstock.client.runs import ENDED
from penstock.contracts import metrics
from penstock.contracts.errors import Invalid, NotFound, Unavailable
from penstock.contracts.events import EVENTS, TrainingRunRequested, decode
from penstock.contracts.topics import SHARED, predictions_topic, source_topic
from penstock.packages.keys import ROLES, Keys, Signer
from penstock.testing.mutations import Mutations
from penstock.testing.otlp import Receiver
from penstock.testing.stack import StackUnderTest, running_stack
from penstock.testing.wait import until

pytestmark = pytest.mark.stack

SEED = 20_261_129
FEW, MANY = 300, 20_000
NAME = "odd"
RUBBISH = b"rubbish"
RECORDS = source_topic("records", NAME, "people")
SEEN = source_topic("seen", NAME, "people")
OF_A_PIPELINE = [
    *(source_topic(kind, NAME, "people") for kind in ("events", "records", "rejects", "seen")),
    predictions_topic(NAME),
]
TOPICS = [*readers(), *OF_A_PIPELINE]
WISH = TrainingRunRequested.ce_type()  # anybody may have it: only of a pipeline that is not there


class Attack:
    """Everything that is sent, and what must become of it."""

    def __init__(self, served: Served, stack: StackUnderTest, folder: Path, seed: int = SEED) -> None:
        self.client, self.stack = served.client, stack
        kafka = stack.stack.admin
        self.wire, self.letters = Wire(kafka), Letters(served.client, kafka)
        self.mutations = Mutations(seed)
        self.draw = self.mutations.draw
        self.keys, self.stranger = Keys(stack.home / "keys"), Keys(folder / "stranger")
        self.stranger.ensure()
        self.seeds: defaultdict[str, list[Genuine]] = defaultdict(list)
        for one in [*told(self.client), *self._examples(served)]:
            self.seeds[one.event_type].append(one)
        self.seeds[WISH] = self.seeds[WISH][-1:]
        self.puts_aside: defaultdict[tuple[str, str | None], set[str]] = defaultdict(set)
        self.wishes: set[str] = set()

    def _examples(self, served: Served) -> Iterator[Genuine]:
        """The contracts' example of each type, about the version that serves; a wish is about nothing."""
        version = served.version
        real = {
            "pipeline": version.pipeline,
            "digest": version.digest,
            "run_id": version.run_id,
            "audit_id": self.client.audits.get(version.digest).audit_id,
        }
        for kind, event in EVENTS.items():
            example = json.loads((ROOT / "schemas" / "examples" / f"{event.__name__}.json").read_bytes())
            aimed = (
                example if kind == WISH else {name: real.get(name, said) for name, said in example.items()}
            )
            headers = {"ce_specversion": "1.0", "ce_id": "x", "ce_type": kind, "ce_source": "/penstock/x"}
            key = decode(kind, json.dumps(aimed).encode())
            yield Genuine(kind, event.topic, key.key.encode() if key else None, headers, aimed)

    def learn(self) -> None:
        """Sees who reads which type on which topic: nobody takes rubbish."""
        tried = [self._rubbish(topic, kind) for topic in TOPICS for kind in (None, *EVENTS)]
        self.settle(within=60)
        found = self.letters.look()
        for one in tried:
            self.puts_aside[one.topic, one.event_type] |= found.get(one.place, set())
        for topic, groups in readers().items():
            own = [self.puts_aside[topic, kind] for kind, event in EVENTS.items() if event.topic == topic]
            assert set().union(*own) == set(groups), topic
        assert self.puts_aside[RECORDS, None] == {"penstock.feature_store.records"}

    def settle(self, within: float) -> None:
        """Waits until every reader has come to what is sent now."""
        last = [self._rubbish(event.topic, kind) for kind, event in EVENTS.items()]
        last += [self._rubbish(RECORDS, None)] * 2
        self.wire.flush()

        def reached() -> bool:
            found = self.letters.look()
            seen = {(one.topic, group) for one in last for group in found.get(one.place, ())}
            return seen >= {(topic, group) for topic, groups in readers().items() for group in groups}

        until(reached, within=within, what="every reader has come to the end")

    def _rubbish(self, topic: str, kind: str | None) -> Sent:
        return self._send(topic, RUBBISH, kind=kind, made="rubbish")

    def _send(self, topic: str, value: bytes, *, kind: str | None, made: str) -> Sent:
        one = Sent(topic, value, b"odd", [("ce_type", kind.encode())] if kind else [], made)
        self.wire.send(one)
        return one

    # -- what is sent ------------------------------------------------------------------------------

    def send(self, count: int) -> None:
        for number in range(count):
            seed = self.draw.choice(self.seeds[self.draw.choice([*EVENTS])])
            one = self._made(seed, f"{seed.headers.get('ce_id', '')}-{number}-{self.draw.random()}")
            one.fails = self._must_fail(one)
            self.wire.send(one)
        self.wire.flush()

    def _made(self, seed: Genuine, identity: str) -> Sent:
        genuine = seed.headers | {"ce_id": identity}
        topic, draw = seed.topic, self.draw
        how = draw.choices(["forged", "changed", "elsewhere", "headers", "other type"], [6, 10, 2, 2, 1])[0]
        event, value = seed.event, None
        if how == "forged" and any(envelopes(event)):
            event, how = self._forged(event)
            value = json.dumps(event).encode()
        elif how == "elsewhere":
            topic = draw.choice(TOPICS)
        elif how == "other type":
            genuine["ce_type"] = draw.choice([*EVENTS])
        headers = [(name, said.encode()) for name, said in genuine.items()]
        if how == "headers" and seed.event_type != WISH:
            headers = self.mutations.headers(genuine)  # type: ignore[assignment]
            value = json.dumps(event).encode()
        value = value or self.mutations.message(event)
        made = f"{seed.event_type.rsplit('.', 2)[-2]}, {how}"
        return Sent(
            topic,
            value if draw.random() < 0.99 else None,
            self.mutations.key(seed.key) or b"",
            list(headers),
            made,
        )

    def _forged(self, event: Any) -> tuple[Any, str]:
        roles = {keyid: key.role for keyid, key in self.keys.trust().keys.items()}

        def by(keys: Keys, *, same: bool) -> Any:
            def signer(envelope: dict[str, Any]) -> Signer:
                named = envelope["signatures"][0]["keyid"] if envelope["signatures"] else ""
                role = roles.get(named, "registry")
                return keys.signer(next(one for one in ROLES if (one == role) is same))

            return signer

        match self.draw.randrange(4):
            case 0:
                return forge(event, by(self.stranger, same=True)), "signed by a stranger"
            case 1:
                return forge(event, by(self.keys, same=False)), "signed by another role"
            case 2:
                return restated(event), "other than was signed"
            case _:
                return unsigned(event), "without a signature"

    def _must_fail(self, one: Sent) -> bool:
        """By the contracts: what no reader may take."""
        event = EVENTS.get(one.event_type or "")
        if one.topic in (RECORDS, SEEN) or one.event_type is None:
            return True
        if event is None or one.value is None:
            return False  # of a type that nobody knows
        if event.topic != one.topic or "sign" in one.made:
            return True
        try:
            said = event.model_validate_json(one.value)
            if isinstance(said, TrainingRunRequested):
                said.check()
                self.wishes.add(said.run_id)
        except (ValidationError, Invalid):
            return True
        return False

    # -- what became of it -------------------------------------------------------------------------

    def check(self) -> None:
        """Asserts that each reader has put aside what it had to."""
        found = self.letters.look()
        for one in self.wire.sent:
            if not one.fails or one.topic == SEEN:
                continue
            left = self.puts_aside[one.topic, one.event_type] - found.get(one.place, set())
            if "sign" in one.made:  # who states a fact reads it only to see whether to state it again
                left -= {f"penstock.{topic.owner}" for topic in SHARED if topic.name == one.topic}
            assert not left, f"seed {SEED}: not put aside by {left}: {one}"

    def count(self) -> Counter[tuple[str, str]]:
        return Counter((place[0], group) for place, groups in self.letters.look().items() for group in groups)

    def wished(self) -> set[str]:
        """Runs that nobody else asked for; each has ended, without effect."""
        runs = [run for run in self.client.runs.list(limit=500) if run.run_id in self.wishes]
        for run in runs:
            until(
                lambda at=run.run_id: self.client.runs.get(at).state in ENDED,  # type: ignore[misc]
                within=300,
                what=f"the wish {run.run_id} has ended",
            )
        return {run.run_id for run in runs}


def journey(served: Served, name: str) -> float:
    """A pipeline applied, trained, promoted, served and asked; returns the seconds that it took."""
    began, journey = time.monotonic(), served.journey
    served.client.pipelines.apply(pipeline_text(name, epochs=1, gates="[]", compare="none"), by="test")
    journey.publish(name, "people", served.events[:1000])
    journey.until_served(name, journey.train(name).digest)
    assert served.client.predictions.by_entity(name, "p00011", timeout=30).prediction
    return time.monotonic() - began


@pytest.mark.slow
def test_odd_messages_on_every_topic_stop_nobody(
    served: Served, stack: StackUnderTest, tmp_path: Path
) -> None:
    served.client.pipelines.apply(pipeline_text(NAME), by="test")
    served.journey.publish(NAME, "people", served.events[:100])
    attack = Attack(served, stack, tmp_path)
    before, running = state(served.client), pids(stack)
    attack.learn()
    attack.send(FEW)
    attack.settle(within=60)
    attack.check()
    stack.kill("ingest")  # it reads the pipelines and the seen ids anew
    served.client.events.publish(NAME, "people", served.events[50:150])
    until(
        lambda: served.client.events.counts(NAME, "people"),
        accept=lambda now: (now.records, now.duplicates) == (150, 50),
        despite=(NotFound, Unavailable),
        what="what is genuine is taken",
    )
    stack.ready()
    assert pids(stack) == running | {"ingest": stack.pid("ingest")}
    assert (SEEN, "penstock.ingest") in attack.count()
    assert state(served.client) == before
    attack.wished()


@pytest.fixture
def watched() -> Iterator[tuple[StackUnderTest, Served, Receiver]]:
    """A stack of its own, which tells its metrics each second."""
    with Receiver() as receiver, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        environment.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1000")
        with running_stack() as stack:
            yield stack, serve(stack.client), receiver


@pytest.mark.slow
def test_twenty_thousand_have_no_effect(
    watched: tuple[StackUnderTest, Served, Receiver], tmp_path: Path
) -> None:
    stack, served, receiver = watched
    usual = journey(served, "earlier")
    served.client.pipelines.apply(pipeline_text(NAME), by="test")
    served.journey.publish(NAME, "people", served.events[:100])
    attack = Attack(served, stack, tmp_path)
    before, running, held = state(served.client), pids(stack), []
    attack.learn()
    for half in range(2):
        attack.send(MANY // 2)
        attack.settle(within=900)
        for group in {group for groups in readers().values() for group in groups}:
            topics = [name for name, groups in readers().items() if group in groups]
            attack.wire.until_read(group, topics, within=900)
        attack.wished()
        held.append(until_no_more(stack, held[0]) if half else memory(stack))
    attack.check()
    stack.ready()
    assert pids(stack) == running
    assert state(served.client) == before
    assert all(reject["reason"] for _, reject in served.client.events.rejects(NAME))

    def counted() -> bool:
        told = Counter[tuple[str, str]]()
        for point in receiver.points(metrics.DEAD_LETTERS.name):
            destination, group = (point.attributes[name] for name in metrics.DEAD_LETTERS.attributes)
            told[destination, group] += round(point.value)
        return told >= attack.count()

    until(counted, what="each dead letter is counted")
    later = journey(served, "later")
    print(f"\n{summary(attack.wire.sent, attack.letters.look())}")
    print(f"wishes {len(attack.wished())}; the main line took {usual:.1f} s before, {later:.1f} s after")
    print(f"held {held[0]}, then {held[1]}")
    assert later <= 2 * usual + 5
