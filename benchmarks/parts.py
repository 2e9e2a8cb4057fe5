"""Parts of `make bench`: a script of this folder each, and the figures of what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import data_plane, models, sites, stack, tuning
from benchmarks.figures.figure import Figure


def nothing(_: Any) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Part:
    """A block of docs/performance.md: a table of figures, and the lines that may follow it."""

    name: str
    figures: Callable[[Any], Iterable[Figure]]
    details: Callable[[Any], Iterable[str]] = nothing
    runs: tuple[tuple[str, ...], ...] = ((),)
    """Arguments of the script, once for each of its runs, which find parts of one dict."""


DEMO = Part("demo", stack.of_demo)
TESTS = Part("tests", stack.of_tests)
KEPT = (("--only-kept",),)
"""Judges what the script's own runs, hours of them, have found."""

ON_THE_DEMO = (
    Part("idle", stack.of_idle, stack.each_program),
    Part("parity", models.of_parity),
    Part("serving", data_plane.of_serving, data_plane.each_path),
    Part("predict", data_plane.of_predict),
    Part("latency", data_plane.of_latency),
)
ALONE = (
    Part("ingest_throughput", data_plane.of_ingest, data_plane.ingest_alone),
    Part("recorder", data_plane.of_recorder),
    Part("online", data_plane.of_online),
    Part("training_sets", data_plane.of_training_sets),
    Part("beyond_memory", data_plane.of_beyond_memory),
    Part("edge", sites.of_sites),
    Part("edge_answers", sites.of_answers),
    Part("edge_wire", sites.of_wire),
    Part("edge_offline", sites.of_offline),
    Part("quality", models.of_quality, models.by_splits),
    Part("trees", models.of_trees),
    Part("anomalies", models.of_anomalies),
    Part("texts", models.of_texts),
    Part("deep", models.of_deep),
    Part("twenty_tables", models.of_tables),
    Part("first_guess", models.of_first_guesses),
    Part("first_models", models.of_first_models),
    Part("strength", models.of_strength),
    Part("audits", models.of_audits),
    Part("trials", tuning.of_trials),
    Part("studies", tuning.of_studies, runs=((), ("--ray",))),
    Part("workers", tuning.of_workers, runs=((), ("--ray",))),
    Part("auto_workers", tuning.of_auto, tuning.each_auto),
    Part("search", tuning.of_searches, runs=KEPT),
    Part("picks", tuning.of_picks, runs=KEPT),
)
PARTS = {part.name: part for part in (DEMO, *ON_THE_DEMO, *ALONE, TESTS)}
