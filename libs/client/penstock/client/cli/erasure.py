"""erase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import typer

from penstock.client.cli.following import attempts
from penstock.client.cli.output import EXIT_FAILED, AsJson, agreed, counted, show
from penstock.client.client import Penstock
from penstock.contracts.errors import DeadlineExceeded, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics
from penstock.edge_gateway.v1 import edge_gateway_pb2 as edge
from penstock.feature_store.v1 import feature_store_pb2 as features

ERASED_WITHIN_S = 60.0


def erase(
    pipeline: str,
    entity: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="For a minute at most; ends with 1 where a site has not done it."),
    ] = False,
    as_json_: AsJson = False,
) -> None:
    """Remove a person from lake, online store, training sets, sites.

    Under its pseudonym, too. Kafka's topics, recorded predictions among them, keep the person until
    their retention ends; this says until when. Sites remove what they have not forwarded yet. Ends
    with 1 where nothing was there. Asks first; a script says --yes.
    """
    agreed(f"Remove `{entity}` from {pipeline} for good?", yes=yes)
    with Penstock() as penstock:
        at_sites = penstock.sites.erase(pipeline, entity)  # first: nothing comes from there any more
        erased = _erased(penstock, pipeline, entity, at_sites)
        topics = _kept(penstock, pipeline)
        left = penstock.sites.waiting(at_sites)
        for _ in attempts(ERASED_WITHIN_S, every=1):  # each site asks the hub by itself
            if not (wait and left):
                break
            left = penstock.sites.waiting(at_sites)
    was_there = bool(erased.lake_rows or erased.training_set_rows or erased.online)
    show(
        {
            "lake_rows": erased.lake_rows,
            "online": erased.online,
            "training_set_rows": erased.training_set_rows,
            "kept": topics and {name: until.isoformat() for name, until in topics.items()},
            "sites": list(left),
        },
        _removed(erased) if was_there else f"no rows of `{entity}` were there: is it the right id?",
        *_told(topics),
        *([f"to be erased at {', '.join(left)}, when it is reached next"] if left else []),
        as_json=as_json_,
    )
    if (wait and left) or not (was_there or at_sites.sites):
        raise typer.Exit(EXIT_FAILED)


def kept(spec: Pipeline) -> dict[str, date]:
    """Day by which each topic of the pipeline that holds people has let go of what it has now. Ids that
    were seen are digests of events, not of people.
    """
    now = datetime.now(UTC)
    return {
        topic.name: (now + timedelta(milliseconds=topic.retention_ms)).date()
        for topic in pipeline_topics(spec)
        if ".seen." not in topic.name
    }


def _erased(
    penstock: Penstock, pipeline: str, entity: str, at_sites: edge.EraseAtSitesResponse
) -> features.EraseEntityResponse:
    erased = penstock.features.erase(pipeline, entity)
    if at_sites.pseudonym:
        of_sites = penstock.features.erase(pipeline, at_sites.pseudonym)
        erased.lake_rows += of_sites.lake_rows
        erased.training_set_rows += of_sites.training_set_rows
        erased.online |= of_sites.online
    return erased


def _removed(erased: features.EraseEntityResponse) -> str:
    rows = counted(erased.lake_rows, "lake row"), counted(erased.training_set_rows, "training-set row")
    return f"removed {', '.join(rows)}, {'its' if erased.online else 'no'} online features"


def _kept(penstock: Penstock, pipeline: str) -> dict[str, date] | None:
    """`kept` of the pipeline; None while the registry does not answer, which an erasure does not need."""
    with suppress(Unavailable, DeadlineExceeded):
        return kept(penstock.pipelines.spec(pipeline))
    return None


def _told(topics: dict[str, date] | None) -> Iterator[str]:
    keep = "Kafka's topics keep what they have of it until their retention ends"
    if topics is None:
        yield f"{keep}; the registry does not answer, so until when is not known now"
        return
    yield f"{keep} (up to a week later):"
    for topic, until in topics.items():
        shown = ", inputs and answers" if topic.endswith(".predictions.v1") else ""
        yield f"  {until}  {topic}{shown}"
