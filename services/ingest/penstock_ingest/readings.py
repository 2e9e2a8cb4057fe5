"""Readings of ingest: facts for `penstock status`."""

from __future__ import annotations

from penstock.runtime.status import Facts
from penstock_ingest.catalog import Catalog
from penstock_ingest.intake import milliseconds


def facts(catalog: Catalog) -> Facts:
    since = milliseconds() - 60_000
    pipelines = len(catalog.applied.all)
    rejects = sum(intake.rejected_since(since) for intake in catalog.intakes)
    return {
        "pipelines": f"{pipelines} pipeline{'' if pipelines == 1 else 's'}",
        "rejects": f"{rejects} reject{'' if rejects == 1 else 's'} in the last minute",
    }
