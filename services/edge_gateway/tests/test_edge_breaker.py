"""Circuit breaker: whatever happens, calls that nobody answers cost little, and an answer is noticed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from penstock_edge_gateway.site.breaker import MISSES, OPEN_S, Breaker

OUTCOMES = st.sampled_from(["answered", "missed", "left"])
CALLS = st.lists(st.tuples(st.floats(0, 2 * OPEN_S), OUTCOMES), max_size=60)


def after(breaker: Breaker, outcome: str, now: float) -> Breaker:
    return {"answered": breaker.answered(), "missed": breaker.missed(now), "left": breaker.left()}[outcome]


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(MISSES):
        breaker = breaker.begun(now).missed(now)
    return breaker


@given(CALLS)
def test_while_nobody_answers_one_call_a_while_is_made(calls: list[tuple[float, str]]) -> None:
    """Whoever leaves in between."""
    breaker, now, missed = opened(), 0.0, [0.0]
    for passed, outcome in calls:
        now += passed
        if outcome != "answered" and breaker.lets(now):
            breaker = after(breaker.begun(now), outcome, now)
            if outcome == "missed":
                missed.append(now)
    assert all(later - earlier >= OPEN_S for earlier, later in pairwise(missed))


@given(CALLS)
def test_from_every_state_an_answer_closes_it_and_time_lets_one_try(calls: list[tuple[float, str]]) -> None:
    breaker, now = Breaker(), 0.0
    for passed, outcome in calls:
        now += passed
        assert breaker.lets(now) == (breaker.state(now) != "open")  # one at a time
        if breaker.lets(now):
            breaker = after(breaker.begun(now), outcome, now)
    assert breaker.lets(now + OPEN_S)
    assert breaker.answered().state(now) == "closed"


@given(st.lists(OUTCOMES, max_size=30))
def test_it_opens_after_misses_in_a_row_alone(outcomes: list[str]) -> None:
    breaker, row = Breaker(), 0
    for outcome in outcomes:
        if not breaker.lets(0.0):
            break
        breaker = after(breaker.begun(0.0), outcome, 0.0)
        row = {"answered": 0, "missed": row + 1, "left": row}[outcome]
        assert (breaker.state(0.0) == "open") == (row >= MISSES)


def test_while_one_tries_no_other_does() -> None:
    breaker = opened()
    assert [breaker.state(now) for now in (0.0, OPEN_S)] == ["open", "half_open"]
    trying = breaker.begun(OPEN_S)
    assert not trying.lets(OPEN_S)
    assert trying.left().lets(OPEN_S)
    assert trying.missed(OPEN_S).state(OPEN_S + 1) == "open"
    assert trying.answered().lets(OPEN_S)
