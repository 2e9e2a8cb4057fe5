"""Figures of sites."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.figure import Figure


def of_sites(found: dict[str, Any]) -> Iterator[Figure]:
    one, ten, alone = found["published_1"], found["published_10"], found["kept"]
    yield Figure(
        "publish at a site, on disk before the answer, 64 in flight, an event a call",
        "3,000 /s",
        "6,000 /s",
        f"{one:,.0f} /s; ten a call {ten:,.0f}; the spool alone {alone:,.0f}",
        one >= 3000,
        one >= 6000,
    )
    share = found["share"]
    yield Figure(
        "a site's full spool into the topics, against a transactional producer with the same batches",
        "0.3",
        "0.6",
        f"{found['drained']:,.0f} of {found['produced']:,.0f} /s = {share:.2f}",
        share >= 0.3,
        share >= 0.6,
    )
