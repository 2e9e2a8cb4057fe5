"""Figures of events on their way in and of features on their way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.figure import Figure


def of_ingest(found: Mapping[str, float]) -> Iterator[Figure]:
    share = found["share"]
    yield Figure(
        f"ingest, {found['bytes_per_event']:.0f} bytes, exactly once, against the pass-through, medians of"
        " runs in turn",
        "0.65",
        "0.8",
        f"{found['ingest_per_s']:,.0f} / {found['pass_through_per_s']:,.0f} events/s, {share:.2f}"
        f" [{found['least_share']:.2f}, {found['greatest_share']:.2f}]",
        share >= 0.65,
        share >= 0.8,
    )
