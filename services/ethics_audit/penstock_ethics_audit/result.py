"""The audit's result: what was found, and everything that it was found from. Written as JSON beside
the report.
"""

from __future__ import annotations

from importlib import metadata
from typing import Literal

from pydantic import AwareDatetime, Field

from penstock.contracts.events import Cost, ModelVersion, StudyReference
from penstock.packages.parts import Curves, Explanation, Origin
from penstock_ethics_audit.audit import Finding, Findings
from penstock_ethics_audit.baselines import Baseline
from penstock_ethics_audit.importance import Importance
from penstock_ethics_audit.looks import Looks
from penstock_ethics_audit.report.pictures import Pictures
from penstock_ethics_audit.twins import Twins

SOFTWARE = ("penstock-ethics-audit", "penstock-measures", "numpy", "onnxruntime", "pyarrow")


class Threshold(Finding):
    """Probability from which on the positive class is decided, and how it was chosen."""

    value: float
    choose: str
    favourable: str = ""  # the class that is good for the person, where the file says so


class Result(Finding):
    format: Literal["penstock.audit.v1"] = "penstock.audit.v1"
    audit_id: str
    pipeline: str
    digest: str
    version: ModelVersion  # lineage: run, training set with its offsets, package and key
    started_at: AwareDatetime
    findings: Findings
    pictures: Pictures
    training: Curves
    epochs: int = 0  # at most, as planned
    target: str = ""  # the column that is predicted
    quantiles: tuple[float, float] | None = None  # that the interval goes between, where there is one
    # Owner, purpose, contact: what the pipeline file says of them
    stated: dict[str, str] = Field(default_factory=dict)
    threshold: Threshold | None = None
    sample_weight: str | None = None  # field by which training weighed rows; the audit does not
    # Rows of the training set by each of several values that count as the negative class
    merged: dict[str, int] = Field(default_factory=dict)
    twins: Twins | None = None  # of audit rows in the training part
    not_counted: str = ""  # the reason, where they are not known
    looks: Looks = Looks()  # at the audit rows, before this one
    notes: tuple[str, ...] = ()  # sentences to be read with the verdict
    importance: Importance | None = None
    baselines: tuple[Baseline, ...] = ()  # simpler models on the same rows
    explanation: Explanation | None = None  # what the model's family shows of it
    origin: Origin | None = None  # of a model made elsewhere: whether it knows these rows is not known
    study: StudyReference | None = None  # the tuning study that chose the model on validation rows
    cost: Cost | None = None  # of this attempt, until the report was written
    software: dict[str, str]
    # `sha256:…` of the HTML report: the signed verdict names this result, this result names
    # the report and the scores.
    report_digest: str = ""
    scores_digest: str = ""


def software() -> dict[str, str]:
    return {name: metadata.version(name) for name in SOFTWARE}
