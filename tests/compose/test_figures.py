"""How long the stack takes to come up, and what it holds when it has nothing to do. Asked before
the other tests load it.
"""

import pytest

from penstock.testing.compose import ComposeUnderTest

pytestmark = pytest.mark.compose

UP_WITHIN_S = 90
IDLE_BYTES = 4 << 30


def test_it_is_up_in_time(compose: ComposeUnderTest) -> None:
    print(f"\nup in {compose.seconds_up:.0f} s")
    assert compose.seconds_up <= UP_WITHIN_S


def test_idle_it_holds_little(compose: ComposeUnderTest) -> None:
    compose.ready()
    held = compose.memory_bytes()
    print(f"\nholds {held / 2**30:.2f} GiB")
    assert held <= IDLE_BYTES
