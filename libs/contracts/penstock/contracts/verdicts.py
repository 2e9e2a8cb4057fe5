"""A verdict as it is said to people."""

from __future__ import annotations

from collections.abc import Sized

NOT_JUDGED = "not judged"
WAITS = "waits for a review"
"""Among the reasons of a refused version: a person may still waive the gates that did not pass."""


def worded(verdict: str, gates: Sized) -> str:
    """The verdict, or `not judged` where the audit had no gates: on the wire such a one is a pass."""
    return verdict if gates or not verdict else NOT_JUDGED
