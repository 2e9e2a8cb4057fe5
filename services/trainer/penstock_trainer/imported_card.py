"""The model card of a model that was made elsewhere: what is known of it, and what is not."""

from __future__ import annotations

from penstock.contracts.events import TrainingSet
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.build import Built
from penstock.packages.parts import Origin
from penstock_trainer.card import NOT_STATED, decision, head


def imported_card(
    pipeline: Pipeline,
    training_set: TrainingSet,
    built: Built,
    origin: Origin,
    *,
    run_id: str,
    pipeline_number: int,
) -> str:
    sections = [
        head(pipeline, training_set, run_id, pipeline_number),
        _model(pipeline, built, origin),
        ["## Intended use", "", NOT_STATED, "", "Uses that must not be made of it:", "", NOT_STATED],
        _data(pipeline, training_set, built),
        _performance(built),
        _limits(built),
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _model(pipeline: Pipeline, built: Built, origin: Origin) -> list[str]:
    return [
        "## Model",
        "",
        f"- Type: {built.description.kind}; the pipeline's inputs and its decision were put around it.",
        (
            f"- Imported by {origin.imported_by} from `{origin.imported_from}`, original digest"
            f" `{origin.original_digest}`."
        ),
        f"- It is {origin.audit_rows}.",
        *decision(pipeline, built),
    ]


def _data(pipeline: Pipeline, training_set: TrainingSet, built: Built) -> list[str]:
    rows = training_set.rows
    return [
        "## Data",
        "",
        f"- What it was trained on: {NOT_STATED}",
        (
            f"- {rows.get('validation', 0):,} rows validated it and {rows.get('audit', 0):,} are for the"
            f" audit alone; {rows.get('train', 0):,} more gave the reference profile."
        ),
        *_samples(built),
        "",
        "## What it looks at",
        "",
        *(
            f"- `{name}` from `{feature.source_field}`"
            for name, feature in pipeline.resolved_features().items()
        ),
    ]


def _samples(built: Built) -> list[str]:
    """Says what describes and measures only some of the rows, where there were too many to hold."""
    told = []
    if built.sampled is not None:
        told.append(f"- The reference profile describes a seeded sample of {built.sampled:,} of its rows.")
    if built.judged is not None:
        told.append(f"- Figures and threshold are of a seeded sample of {built.judged:,} validation rows.")
    return told


def _performance(built: Built) -> list[str]:
    return [
        "## On the validation split",
        "",
        "The threshold was chosen on this split.",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in built.metrics.items()),
    ]


def _limits(built: Built) -> list[str]:
    return [
        "## Limits",
        "",
        *(f"- {limit}" for limit in built.description.limits),
        "- Missing values and unknown categories are treated as its maker decided.",
        f"- Further limits, ethical considerations, contact: {NOT_STATED}",
    ]
