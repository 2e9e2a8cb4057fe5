"""Figures of sites."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.figures.figure import Figure


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
    posted = found["posted"]
    yield Figure(
        "the same over HTTP", "3,000 /s", "6,000 /s", f"{posted:,.0f} /s", posted >= 3000, posted >= 6000
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


def of_answers(found: dict[str, Any]) -> Iterator[Figure]:
    yield Figure(
        "a site: p50 of a recorded answer, 1 in flight, against a bare grpc.aio servicer with ONNX Runtime",
        "1.4 ×",
        "1.2 ×",
        f"{found['p50_us']:,.0f} / {found['bare_p50_us']:,.0f} µs, {found['times']:.2f}",
        found["times"] <= 1.4,
        found["times"] <= 1.2,
    )
    start, resident = found["start_s"], found["resident_mb"]
    yield Figure(
        "a site: cold start from disk to the first answer",
        "3 s",
        "1.5 s",
        f"{start:.2f} s",
        start <= 3,
        start <= 1.5,
    )
    yield Figure(
        "a site: resident memory, serving adult-income",
        "200 MB",
        "130 MB",
        f"{resident:.0f} MB",
        resident <= 200,
        resident <= 130,
    )


def of_wire(found: dict[str, Any]) -> Iterator[Figure]:
    day, cut, slow = found["idle_day_kib"], found["cut_noticed_s"], found["slow_site_mb"]
    yield Figure(
        "a site: traffic of an idle day, TLS and TCP counted",
        "1 MiB",
        "250 KiB",
        f"{day:,.0f} KiB, {found['idle_day_tls_kib']:,.0f} of it TLS; counted for {found['counted_s']:.0f} s",
        day <= 1024,
        day <= 250,
    )
    yield Figure("a site: a silent cut noticed", "90 s", "80 s", f"{cut:.1f} s", cut <= 90, cut <= 80)
    yield Figure(
        "a site: Envoy's memory while it reads slowly, of 20",
        "2 MB",
        "1 MB",
        f"{slow:.2f} MB; a site that waits {found['waiting_site_mb']:.2f}",
        slow <= 2,
        slow <= 1,
    )


def of_offline(found: dict[str, Any]) -> Iterator[Figure]:
    faults = {which: found[which] for which in ("missing", "doubled", "disordered")}
    yield Figure(
        "a site: 72 h without the hub, an event a second, in fast motion",
        "complete, in order, none doubled",
        "–",
        f"{found['events']:,} events: {', '.join(f'{count} {which}' for which, count in faults.items())};"
        f" {found['spooled_mb']:,.0f} MB, reckoned {found['reckoned_mb']:,.0f};"
        f" in at {found['spooled_per_s']:,.0f} /s, out at {found['drained_per_s']:,.0f}",
        not any(faults.values()),
    )
