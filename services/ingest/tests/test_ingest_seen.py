"""The window of seen ids against a plain dict, and profiles that add up."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.pipeline import SourceField
from penstock_ingest.counts import Counts, decode_counts
from penstock_ingest.profile import Profile, Profiler, add, decode_profile, encode_profile
from penstock_ingest.seen import SeenIds, digest

WINDOW = 100
STEPS = st.lists(
    st.tuples(st.lists(st.integers(0, 30), max_size=10), st.integers(0, 60), st.booleans()), max_size=20
)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_divides_as_a_dict_would(steps: list[tuple[list[int], int, bool]]) -> None:
    seen, model, now = SeenIds(WINDOW, 1000), dict[int, int](), 1_000_000
    for numbers, later, tidy in steps:
        now += later
        fresh = [
            number not in numbers[:at]
            and model.get(number, 0) < now - WINDOW  # the first of its kind, and not seen lately
            for at, number in enumerate(numbers)
        ]
        digests = [digest(str(number)) for number in numbers]
        assert seen.divide(digests, now) == fresh
        new = [number for number, is_fresh in zip(numbers, fresh, strict=True) if is_fresh]
        seen.remember([digest(str(number)) for number in new], now)
        model |= dict.fromkeys(new, now)
        if tidy:
            seen._tidy(now - WINDOW)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(16, 64))
def test_never_holds_more_than_its_capacity_and_forgets_the_oldest(sizes: list[int], capacity: int) -> None:
    seen, order, forgotten = SeenIds(10**9, capacity), list[bytes](), 0
    for now, size in enumerate(sizes):
        digests = [digest(f"{now}/{number}") for number in range(min(size, capacity))]
        forget = seen.excess(len(digests), now)
        seen.remember(digests, now, forget)
        order += digests
        forgotten += forget
        assert len(seen) == len(order) - forgotten <= capacity
    still = [not fresh for fresh in seen.divide(order, len(sizes))]
    times = [now for now, size in enumerate(sizes) for _ in range(min(size, capacity))]
    kept = [time for time, there in zip(times, still, strict=True) if there]
    gone = [time for time, there in zip(times, still, strict=True) if not there]
    assert len(gone) == forgotten
    assert not gone or max(gone) <= min(kept)


def test_what_was_restored_is_what_was_remembered() -> None:
    chunks = [
        (b"".join(digest(f"{chunk}/{number}") for number in range(50)), 1000 + chunk) for chunk in range(20)
    ]
    seen = SeenIds(WINDOW, 600)
    seen.restore(chunks, 1000 + 19)
    assert len(seen) == 600
    fresh = seen.divide([digest(f"{chunk}/{number}") for chunk in range(20) for number in range(50)], 1019)
    assert fresh == [True] * 400 + [False] * 600
    seen.restore(chunks, 1000 + 10 + WINDOW)
    assert len(seen) == 500, "what has left the window is not taken up again"


FIELDS = {
    "number": SourceField(type="number"),
    "category": SourceField(type="category"),
    "truth": SourceField(type="boolean"),
    "note": SourceField(type="text"),
    "secret": SourceField(type="number", personal=True),
}
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "number": st.none() | st.floats(-1e6, 1e6),
            "category": st.none() | st.sampled_from("abc"),
            "truth": st.none() | st.booleans(),
            "note": st.none() | st.text(),
            "secret": st.none() | st.just(12345.0),
        }
    ),
    max_size=20,
)


def profile(rows: list[dict[str, Any]]) -> Profile:
    return Profiler(FIELDS).add({name: [row[name] for row in rows] for name in FIELDS}).profile()


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS, max_size=4))
def test_profiles_of_parts_add_up_to_the_profile_of_all(parts: list[list[dict[str, Any]]]) -> None:
    total = profile([])
    for part in parts:
        total = decode_profile(encode_profile(add(total, profile(part))))
    rows = [row for part in parts for row in part]
    for name in FIELDS if rows else ():
        values = [row[name] for row in rows if row[name] is not None]
        assert (total[name].present, total[name].missing) == (len(values), len(rows) - len(values))
    numbers = [row["number"] for row in rows if row["number"] is not None]
    if numbers:
        moments = total["number"].moments
        assert moments is not None
        assert (moments.minimum, moments.maximum) == (min(numbers), max(numbers))
        assert math.isclose(moments.mean, statistics.fmean(numbers), rel_tol=1e-9, abs_tol=1e-6)
        if len(numbers) > 1:
            assert math.isclose(
                total["number"].standard_deviation or 0, statistics.stdev(numbers), rel_tol=1e-6, abs_tol=1e-6
            )
    assert b"12345" not in encode_profile(total)


def test_the_largest_numbers_do_not_break_a_profile() -> None:
    rows = [{"number": 1.7e308, "category": None, "truth": None, "note": None, "secret": None}] * 3
    once = decode_profile(encode_profile(profile(rows)))
    twice = decode_profile(encode_profile(add(once, profile(rows))))
    assert twice["number"].moments is not None
    assert twice["number"].moments.maximum == 1.7e308


def test_only_so_many_values_of_a_category_are_kept() -> None:
    rows = [
        {**dict.fromkeys(FIELDS), "category": "often" if number % 2 else "x" * 500 + str(number)}
        for number in range(400)
    ]
    values = profile(rows)["category"].values
    assert len(values) <= 50
    assert values["often"] == 200
    assert max(map(len, values)) <= 64


def test_counts_travel_as_metadata() -> None:
    counts = Counts(10**15, 3, 2, Counter(unknown_field=10**15))
    assert decode_counts(counts.encode()) == counts
    assert len(counts.encode()) < 4096
    assert decode_counts("") == decode_counts("by hand") == decode_counts("[9, 1]") == Counts()
