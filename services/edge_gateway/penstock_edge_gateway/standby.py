"""Mark of a hub's answer that stands by: another behind the same address forwards."""

from __future__ import annotations

from typing import Final

STANDBY: Final = "standby"
"""`where` of the error."""
