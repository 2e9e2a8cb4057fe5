"""Figures of events on their way in and of features on their way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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


def of_online(found: Mapping[str, Any]) -> Iterator[Figure]:
    for count, entities in (("1", "1 entity"), ("100", "100 entities")):
        one = found[count]
        yield Figure(
            f"`GetOnlineFeatures`, {entities}: p50 against its statement and an echo of the same bytes",
            "1.3 ×",
            "1.2 ×",
            f"{one['p50_ms']:.2f} / ({one['read_ms']:.2f} + {one['echo_ms']:.2f}) ms, {one['ratio']:.2f}"
            f" [{one['least']:.2f}, {one['greatest']:.2f}]",
            one["ratio"] <= 1.3,
            one["ratio"] <= 1.2,
        )
    writing = found["writing"]
    yield Figure(
        f"the same, 100 entities, p99 while {writing['written_per_s']:,} records/s are written",
        "10 ms",
        "5 ms",
        f"{writing['p99_ms']:.1f} ms",
        writing["p99_ms"] <= 10,
        writing["p99_ms"] <= 5,
    )


def of_predict(found: Mapping[str, float]) -> Iterator[Figure]:
    yield Figure(
        "`Predict` by entity: p50 against the online read and the inference, each by itself",
        "1.5 ×",
        "1.2 ×",
        f"{found['predict_ms']:.2f} / ({found['features_ms']:.2f} + {found['infer_ms']:.2f}) ms,"
        f" {found['ratio']:.2f} [{found['least']:.2f}, {found['greatest']:.2f}]",
        found["ratio"] <= 1.5,
        found["ratio"] <= 1.2,
    )
