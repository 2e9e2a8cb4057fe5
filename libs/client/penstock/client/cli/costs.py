"""costs, and the cost of one job in words."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.client.cli.output import AsJson, show, table
from penstock.client.client import Penstock
from penstock.cost.v1 import cost_pb2

MEGABYTE = 1e6
FIGURES = ("processor s", "GPU s", "peak MB", "read MB")
NO_FIGURES = (None,) * len(FIGURES)  # while it goes on


def figures(cost: cost_pb2.Cost) -> tuple[float, float, int, int]:
    """Processor and GPU seconds, peak memory and bytes read in megabytes."""
    megabytes = (round(cost.peak_memory / MEGABYTE), round(cost.bytes_read / MEGABYTE))
    return round(cost.processor_s, 1), round(cost.gpu_s, 1), *megabytes


def words(cost: cost_pb2.Cost) -> str:
    processor, gpu, peak, read = figures(cost)
    return f"{processor} processor seconds, {gpu} GPU seconds, {peak} MB at its peak, {read} MB read"


def costs(
    pipeline: Annotated[str, typer.Argument(help="Only of this pipeline.")] = "",
    month: Annotated[str, typer.Option(help="Only of this month, as in 2026-11 (UTC).")] = "",
    as_json_: AsJson = False,
) -> None:
    """Cost of runs, studies and audits, by pipeline and month."""
    with Penstock() as penstock:
        found = {
            "training": list(penstock.runs.costs(pipeline, month=month)),
            "tuning": list(penstock.studies.costs(pipeline, month=month)),
            "audits": list(penstock.audits.costs(pipeline, month=month)),
        }
    rows = [
        (one.month, one.pipeline, work, one.jobs, *figures(one.cost))
        for work, months in found.items()
        for one in months
    ]
    rows.sort(key=lambda row: row[:2], reverse=True)
    columns = ("month", "pipeline", "work", "jobs", *FIGURES)
    show(found, table(columns, rows, empty="no run, study or audit has ended"), as_json=as_json_)
