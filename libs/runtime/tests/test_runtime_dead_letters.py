"""Dead letters: what is known of them is bounded, however many there are."""

from __future__ import annotations

import pytest

from penstock.contracts.errors import Invalid
from penstock.runtime import dead_letters
from penstock.runtime.cloud_events import Received
from penstock.runtime.dead_letters import DeadLetters, Letter
from penstock.testing.broker import Kafka
from penstock.testing.letters import letters

pytestmark = pytest.mark.kafka


def test_places_of_the_newest_letters_are_known_after_a_restart_too(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "KNOWN", 3)
    monkeypatch.setattr(dead_letters, "AT_ONCE", 2)
    settings = kafka.settings("bounded-letters-")

    def put(into: DeadLetters, offset: int) -> int:
        received = Received("audits.v1", 0, offset, str(offset), "odd", {}, b"{}")
        assert not into.put([Letter(received, Invalid("no event"))])
        return len(letters(settings, "audits.v1.g.dlq"))

    first = DeadLetters(settings, "g")
    assert [put(first, offset) for offset in (0, 1, 2, 3, 4)] == [1, 2, 3, 4, 5]
    assert [put(first, offset) for offset in (2, 3, 4)] == [5, 5, 5]
    again = DeadLetters(settings, "g")
    assert [put(again, offset) for offset in (2, 3, 4)] == [5, 5, 5]
    assert put(again, 0) == 6  # it is not known any more: so much is held in memory


def test_a_letter_that_cannot_be_written_holds_back_no_other(kafka: Kafka) -> None:
    settings = kafka.settings("closed-letters-")
    odd, fine = (
        Received(topic, 0, 0, "0", "odd", {}, b"{}") for topic in ("no topic of Kafka's", "audits.v1")
    )
    ((left, why),) = DeadLetters(settings, "g").put([Letter(odd, Invalid("x")), Letter(fine, Invalid("y"))])
    assert left.received is odd
    assert why
    assert [letter.headers["dlq-reason"] for letter in letters(settings, "audits.v1.g.dlq")] == ["y"]
