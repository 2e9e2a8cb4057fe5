"""The audit job, a process of its own: fetches and checks, scores, computes, writes. The service signs
its result.

It starts over after a kill: the same package, split and seed give the same findings, and artifacts
are replaced whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_mixed  # noqa: F401  these three load late, and each audit needs them
import model_signing.verifying  # noqa: F401
import pyarrow.dataset  # noqa: F401
import structlog
from pydantic import BaseModel

from penstock.contracts.errors import Invalid, NotFound, Tampered
from penstock.contracts.events import Cost, ModelVersion
from penstock.contracts.pipeline import Audit, text_of
from penstock.measures.groups import Grouping, compare_not_stated, divide
from penstock.measures.scores import Scores
from penstock.packages import archive, signing
from penstock.packages.format import Package, open_package
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.child import JobContext, job_main
from penstock.runtime.spent import spent
from penstock_ethics_audit.audit import audit
from penstock_ethics_audit.baselines import baselines
from penstock_ethics_audit.graphs import Graph, opened
from penstock_ethics_audit.importance import importance
from penstock_ethics_audit.looks import Earlier
from penstock_ethics_audit.overlap import looks
from penstock_ethics_audit.report.notes import notes
from penstock_ethics_audit.report.page import render
from penstock_ethics_audit.report.pictures import pictures
from penstock_ethics_audit.result import Result, Threshold, software
from penstock_ethics_audit.split import Split, read_merged, read_split, score, write_scores
from penstock_ethics_audit.twins import Twins, twins

log = structlog.get_logger(__name__)

# Of a training part that is read for twins of audit rows: a container's scratch folder is its memory.
MOST_BYTES = 256 << 20


class Order(BaseModel):
    """Payload of the job: the version to audit, and where artifacts and keys lie."""

    audit_id: str
    version: ModelVersion
    # The `audit` section of the pipeline file that the version was trained from, where the service
    # knows it.
    asked: Audit | None = None
    earlier: tuple[Earlier, ...] = ()  # oldest first
    started_at: datetime
    artifacts: str
    keys: Path


def run(job: JobContext) -> Mapping[str, Any]:
    """Audits a version; returns `verdict`, `gates`, and the artifacts `report`, `result`, `scores`."""
    order = Order.model_validate(job.payload)
    artifacts, place = Artifacts(order.artifacts), f"audits/{order.audit_id}"

    def step(name: str) -> None:
        log.info("audit_step", done=name)

    with tempfile.TemporaryDirectory(prefix="penstock-audit-") as scratch:
        folder = Path(scratch)
        package = _package(order, artifacts, folder)
        step("package verified")
        part = _split(order, package, artifacts, folder)
        split = read_split(part, package.signature)
        with opened(package) as graph:
            scores = score(split, graph, package.signature)
            step(f"{len(scores)} rows scored")
            result = _result(order, package, graph, split, scores, read_merged(part), step)
        result = result.model_copy(update=_twins(order, package, artifacts, part, result.findings.entities))
        step("twins counted")
        result = result.model_copy(update={"looks": looks(split, order.earlier, artifacts)})
        step("earlier looks counted")
        result = result.model_copy(update={"notes": notes(result)})
        write_scores(split, scores, folder / "scores.npz")
        written = artifacts.put_file(f"{place}/scores.npz", folder / "scores.npz")
        report = artifacts.put_bytes(f"{place}/report.html", render(result).encode())
        step("report written")
        result = result.model_copy(update={"report_digest": report.digest, "scores_digest": written.digest})
        stored = artifacts.put_bytes(f"{place}/result.json", result.model_dump_json(indent=1).encode())
    kept = {"report": report, "result": stored, "scores": written}
    return result.findings.model_dump(mode="json", include={"verdict", "gates"}) | {
        name: artifact.model_dump(mode="json") for name, artifact in kept.items()
    }


def _result(
    order: Order,
    package: Package,
    graph: Graph,
    split: Split,
    scores: Scores,
    merged: dict[str, int],
    step: Callable[[str], None],
) -> Result:
    """Computes all that the report shows, but for the digests of what is written."""
    pipeline = package.pipeline
    groupings = _groupings(split, scores, pipeline.audit)
    seed = split.seed()
    findings = audit(scores, groupings, pipeline.audit, seed, step)
    found = importance(split, graph, package.signature, seed, pipeline.audit.confidence)
    step("importance")
    simpler = baselines(package, split, scores, seed, pipeline.audit.confidence)
    step("baselines")
    about = {key: getattr(pipeline, key) for key in ("owner", "purpose", "contact")}
    return Result(
        audit_id=order.audit_id,
        pipeline=order.version.pipeline,
        digest=package.digest,
        version=order.version,
        started_at=order.started_at,
        findings=findings,
        pictures=pictures(scores, groupings, findings),
        training=package.curves,
        epochs=pipeline.trainer.epochs,
        target=pipeline.target.source_field.partition(".")[2],
        quantiles=pipeline.target.quantiles,
        stated={key: said for key, said in about.items() if said is not None},
        threshold=_threshold(package),
        sample_weight=pipeline.training.sample_weight,
        merged=merged,
        importance=found,
        baselines=simpler,
        explanation=package.explanation,
        origin=package.origin,
        study=package.study,
        cost=Cost.model_validate(spent("self")),
        software=software(),
    )


def _threshold(package: Package) -> Threshold | None:
    value = package.metrics.get("threshold")
    if value is None:
        return None
    good = package.pipeline.target.favourable
    return Threshold(
        value=value,
        choose=package.pipeline.decision.threshold.choose,
        favourable="" if good is None else text_of(good),
    )


def _package(order: Order, artifacts: Artifacts, folder: Path) -> Package:
    version = order.version
    directory = folder / "package"
    archive.unpack(artifacts.fetch(version.package, folder / "package.tar"), directory)
    signature = artifacts.fetch(version.signature, folder / archive.MODEL_SIGNATURE)
    signing.verify_package(directory, signature, Keys(order.keys).trust(), version.digest, version.keyid)
    package = open_package(directory, version.digest)
    package.check()
    if package.pipeline.pipeline != version.pipeline:
        raise Tampered(
            f"the package is of pipeline {package.pipeline.pipeline}, the version of {version.pipeline}"
        )
    if order.asked is not None and package.pipeline.audit != order.asked:
        raise Invalid(
            f"the package asks for another audit than pipeline number {version.pipeline_number} does",
            where="audit",
            remedy="Apply the gates that you want and train again; a run's overrides cannot change them",
        )
    return package


def _split(order: Order, package: Package, artifacts: Artifacts, folder: Path) -> Path:
    """Fetches the split that the feature store signed for the run. Raises Tampered."""
    named = order.version.training_set
    if named.fingerprint != package.training_set.fingerprint:
        raise Tampered("the version's training set is not the one that the package names")
    try:
        return artifacts.fetch(named.audit, folder / "audit.parquet")
    except Tampered as error:
        raise Tampered(
            "the audit split has changed since the model was trained",
            where=named.audit.uri,
            remedy="Train again; after `penstock erase` this is expected",
        ) from error


def _twins(
    order: Order, package: Package, artifacts: Artifacts, part: Path, entities: int
) -> dict[str, Twins | str]:
    """The result's `twins`, or `not_counted` with the reason."""
    train = order.version.training_set.train
    if package.origin is not None:
        return {"not_counted": "the model was made elsewhere"}
    if train.size > MOST_BYTES:
        return {"not_counted": f"the training part has {train.size / 1e6:,.0f} MB"}
    try:
        fetched = artifacts.fetch(train, part.with_name("train.parquet"))
    except (NotFound, Tampered) as error:  # an erasure rewrote it
        log.warning("twins_not_counted", why=str(error))
        return {"not_counted": "the training part is no longer the one that was trained on"}
    return {"twins": twins(part, fetched, package.signature, entities)}


def _groupings(split: Split, scores: Scores, spec: Audit) -> list[Grouping]:
    found = []
    for by, group in spec.groups.items():
        if by not in split.groups:
            raise Invalid(
                f"the audit split carries no group `{by}`",
                where=f"audit.groups.{by}",
                remedy="Train again for this pipeline number",
            )
        grouping = divide(by, split.groups[by], group.bins, group.name)
        found.append(
            compare_not_stated(grouping, scores.label_codes, max(len(scores.classes), 1), group.min_rows)
        )
    return found


if __name__ == "__main__":
    job_main(run)
