"""Numbers in a form that nothing here reads: with marks between their thousands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from penstock.client.declared import number

_MARKED = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>\d{1,3}(?:(?P<mark>[.,'’ \u00a0\u202f])\d{3})(?:(?P=mark)\d{3})*)"
    r"(?:[.,](?P<fraction>\d+))?"
)


def marked(texts: Iterable[str]) -> str:
    """Sentence on texts that each are a number, with what to write, where some have marks between their
    thousands and are none so; else empty. `1.234` alone is a number.
    """
    shown = ""
    for text in map(str.strip, texts):
        with suppress(ValueError):
            number(text)
            continue
        if not (found := _MARKED.fullmatch(text)):
            return ""
        plain = re.sub(r"\D", "", found["whole"])
        fraction = f".{found['fraction']}" if found["fraction"] else ""
        shown = shown or f"write `{text}` as `{found['sign']}{plain}{fraction}`"
    return f"it looks like numbers with marks between thousands, which are not read: {shown}" if shown else ""
