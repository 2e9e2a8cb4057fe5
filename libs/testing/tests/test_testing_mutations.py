"""Odd messages are the same for a seed, and many kinds of odd."""

from __future__ import annotations

import json

from penstock.testing.mutations import Mutations

EVENT = {"a": 1, "b": "x", "c": {"d": [1, {"e": None}]}, "at": "2026-01-01T00:00:00Z"}


def test_a_seed_makes_the_same_again() -> None:
    def made(seed: int) -> list[object]:
        mutations = Mutations(seed)
        return [
            (
                mutations.message(EVENT),
                mutations.headers({"a": "b"}),
                mutations.key(b"k"),
                mutations.yaml("a: 1"),
            )
            for _ in range(500)
        ]

    assert made(5) == made(5) != made(6)


def test_some_are_valid_and_some_no_json_and_all_leave_the_seed_as_it_was() -> None:
    before, mutations = json.dumps(EVENT), Mutations(7)
    messages = [mutations.message(EVENT) for _ in range(500)]
    assert json.dumps(EVENT) == before
    assert 25 < sum(message == before.encode() for message in messages) < 100
    assert len(set(messages)) > 300
    assert 25 < sum(not _reads(message) for message in messages) < 300


def _reads(message: bytes) -> bool:
    try:
        json.loads(message)
    except (ValueError, RecursionError):
        return False
    return True
