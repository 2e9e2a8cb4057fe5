"""Events' bytes: what no JSON writer of this house writes is read as others of its kind."""

from __future__ import annotations

import json
from math import inf, isnan

import pytest

from penstock.contracts.dataplane import read_json

HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (str(2**64 - 1), 2**64 - 1),
        (str(-(2**63)), -(2**63)),
        (str(2**64), float(2**64)),
        (HUGE, inf),
        (f"-{HUGE}", -inf),
        ("9" * 5_000, inf),
        ("1e999", inf),
    ],
)
def test_a_number_is_read_alike_beside_whatever_stands(written: str, read: float) -> None:
    for other in ("1", "NaN"):
        found = read_json(f'{{"x": {written}, "y": {other}}}'.encode())
        assert (found["x"], type(found["x"])) == (read, type(read))
        assert found["y"] == 1 or isnan(found["y"])


@pytest.mark.parametrize("value", [b'{"x": "\\ud800", "y": NaN}', b"[" * 100_000, b"", b"nul"])
def test_what_nobody_downstream_can_hold_is_no_json(value: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        read_json(value)
