"""The model card: what a person should know before trusting the model. Markdown, from facts alone;
what nobody has stated is said to be so.

After M. Mitchell et al., *Model Cards for Model Reporting* (FAT* 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pydantic import JsonValue

from penstock.contracts.events import StudyReference, TrainingSet
from penstock.contracts.pipeline import Number, Pipeline, TextAverage, TextCnn, Treatment
from penstock.modelkit.build import Built
from penstock.modelkit.stored import DOUBT, rank_error
from penstock_trainer.pace import pace_of

NOT_STATED = "*Not stated. Whoever owns this pipeline should say.*"


def model_card(
    pipeline: Pipeline,
    training_set: TrainingSet,
    built: Built,
    *,
    run_id: str,
    pipeline_number: int,
    chosen: Mapping[str, JsonValue] = MappingProxyType({}),
    because: str = "",
    study: StudyReference | None = None,
) -> str:
    sections = [
        head(pipeline, training_set, run_id, pipeline_number),
        [*_model(pipeline, built, chosen, because), *_study(study)],
        [
            "## Intended use",
            "",
            pipeline.purpose or NOT_STATED,
            *_answers(pipeline),
            "",
            "Uses that must not be made of it:",
            "",
            NOT_STATED,
        ],
        [*_data(pipeline, training_set), *_sample(built)],
        _features(pipeline, built),
        _performance(built),
        _fairness(pipeline),
        _limits(pipeline, built),
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _answers(pipeline: Pipeline) -> list[str]:
    """Says who answers for the model, and where to ask, as far as the file states it."""
    stated = {"Owner": pipeline.owner, "Contact": pipeline.contact}
    return [line for name, said in stated.items() if said for line in ("", f"{name}: {said}")]


def head(pipeline: Pipeline, training_set: TrainingSet, run_id: str, number: int) -> list[str]:
    """Title, what is predicted, and the run."""
    return [
        f"# {pipeline.pipeline}",
        "",
        (
            f"Predicts `{next(iter(pipeline.targets))}` ({pipeline.target.type}, from"
            f" `{pipeline.target.source_field}`) for one {pipeline.entity}."
        ),
        "",
        (
            f"Made by run `{run_id}` of the pipeline file's number {number}, from training set"
            f" `{training_set.fingerprint}`."
        ),
    ]


def _model(pipeline: Pipeline, built: Built, chosen: Mapping[str, JsonValue], because: str) -> list[str]:
    told = built.description
    ends = pipeline.target.quantiles
    lines = [
        "## Model",
        "",
        f"- Type: {told.kind}. All preprocessing is inside the one ONNX graph (`model.onnx`).",
        f"- {told.training}, seed {pipeline.training.seed}.",
        *_pace(built),
        *([f"- Why `{pipeline.model.type}`: {because}."] if because else []),
        *([f"- Chosen by the number of training rows: {_listed(chosen)}."] if chosen else []),
        *(f"- Rows counted in training as `{weight}` says." for weight in _weight(pipeline)),
        *([f"- Its interval goes from quantile {ends[0]:g} to {ends[1]:g}."] if ends else []),
        (
            f"- Between {told.library} and the graph in ONNX Runtime: at most {built.parity:.1e} over all"
            " training and validation rows."
        ),
    ]
    return lines + decision(pipeline, built)


def _pace(built: Built) -> list[str]:
    found = pace_of(built.history)
    if not found.rows_per_s:
        return []
    workers = "1 worker" if found.workers == 1 else f"{found.workers} workers"
    gpu = f", {found.gpu_bytes / 1e9:.1f} GB of a GPU" if found.gpu_bytes else ""
    return [f"- Trained by {workers} at {found.rows_per_s:,.0f} rows/s{gpu}; it {found.bottleneck}."]


def _study(study: StudyReference | None) -> list[str]:
    if study is None:
        return []
    return [
        (
            f"- Found by tuning study `{study.study_id}`: its trial {study.trial} of {study.trials}, by"
            f" {study.rule}. These weights are that trial's, bit for bit."
        ),
        (
            f"- {study.looks:,} evaluations on the validation rows made the choice: their figures flatter the"
            " model, the audit's do not."
        ),
    ]


def decision(pipeline: Pipeline, built: Built) -> list[str]:
    """Lines on the threshold and on abstaining."""
    lines = []
    if built.threshold is not None:
        choose = pipeline.decision.threshold.choose
        lines.append(
            f"- Decides `{built.signature.classes[1]}` from a probability of {built.threshold:.4f} up"
            f" ({'given' if choose == 'fixed' else f'{choose} on validation'})."
        )
    if pipeline.decision.abstain:
        low, high = pipeline.decision.abstain
        lines.append(f"- Abstains where the probability lies in [{low:g}, {high:g}].")
    return lines


def _listed(chosen: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"`{key}` {value}" for key, value in chosen.items())


def _weight(pipeline: Pipeline) -> tuple[str, ...]:
    """The field that weighs rows, if any."""
    return (pipeline.training.sample_weight,) if pipeline.training.sample_weight else ()


def _data(pipeline: Pipeline, training_set: TrainingSet) -> list[str]:
    rows = training_set.rows
    by = pipeline.split.by if pipeline.split else pipeline.entity
    return [
        "## Data",
        "",
        (
            f"- {rows.get('train', 0):,} rows to train on, {rows.get('validation', 0):,} to validate,"
            f" {rows.get('audit', 0):,} for the audit alone; divided by {by}."
        ),
        "- From these Kafka offsets [first, last):",
        *(
            f"  - `{part.topic}`/{part.partition}: {part.first} to {part.last}"
            for part in training_set.offsets
        ),
        f"- Put together {training_set.created_at:%Y-%m-%d %H:%M} UTC.",
    ]


def _sample(built: Built) -> list[str]:
    """Says of which rows the treatment of features was learned, where there were too many to hold."""
    if built.sampled is None:
        return []
    return [
        f"- All rows trained it; its features were fitted to a seeded sample of {built.sampled:,} of them,"
        " which the profile describes and simpler models were fitted to. With probability"
        f" {1 - DOUBT:.0%} a quantile's rank is off by less than {rank_error(built.sampled):.2%}"
        " (Dvoretzky, Kiefer, Wolfowitz 1956)."
    ]


def _features(pipeline: Pipeline, built: Built) -> list[str]:
    shares = built.description.importance
    heads = ["feature", "from", "treated", *(["share of the gain"] if shares else [])]
    lines = ["## What it looks at", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, feature in pipeline.resolved_features().items():
        field = pipeline.field(feature.source_field)
        marks = "".join(f", **{mark}**" for mark in ("protected", "personal") if getattr(field, mark))
        share = f" {shares.get(name, 0):.1%} |" if shares else ""
        lines.append(
            f"| `{name}` | `{feature.source_field}` ({field.type}{marks}) |"
            f" {', '.join(_treatment(feature, pipeline.model.treatments))} |{share}"
        )
    if shares:
        lines += ["", "A feature's gain is by how much the splits on it lowered the loss in training."]
    return lines


def _treatment(feature: Treatment, taken: frozenset[str]) -> Iterator[str]:
    if not isinstance(feature, Number):
        yield feature.encode.replace("_", " ")
        if isinstance(feature, TextCnn):
            widths = ", ".join(map(str, feature.widths))
            seen = "its strongest answer" if feature.pool == "max" else "its answer at each place"
            yield f"{feature.filters} filters over {widths} words, of each {seen} (Kim 2014)"
        elif isinstance(feature, TextAverage):
            yield f"the mean of its words' embeddings of {feature.dimension} numbers"
        return
    if not taken & {"clip", "impute", "scale"}:
        yield "as it is"
    if feature.clip:
        yield f"clipped to [{feature.clip[0]}, {feature.clip[1]}]"
    if "impute" in taken:
        yield f"missing → {feature.impute}"
    if "scale" in taken:
        yield f"scaled: {feature.scale}"


LOSSES = ("train_loss", "validation_loss")


def _performance(built: Built) -> list[str]:
    train, validation = (built.metrics[name] for name in LOSSES)
    kind = "log loss" if built.signature.classes else "squared error"
    return [
        "## On the validation split",
        "",
        (
            "The threshold and the epoch were chosen on this split. Quote the audit's figures: the trainer"
            " never saw its rows."
        ),
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in built.metrics.items() if name not in LOSSES),
        "",
        (
            f"Its {kind} is {train:.4f} on the training rows and {validation:.4f} on the validation rows,"
            " without dropout, class weights or penalty; the training curve's losses have those."
        ),
    ]


def _fairness(pipeline: Pipeline) -> list[str]:
    protected = sorted(
        f"`{source}.{name}`"
        for source, declared in pipeline.sources.items()
        for name, f in declared.fields.items()
        if f.protected
    )
    constraint = pipeline.trainer.fairness
    gates = [f"`{gate.metric}` by `{gate.by}`" for gate in pipeline.audit.gates if gate.by]
    return [
        "## Fairness",
        "",
        f"- Protected fields: {', '.join(protected) or 'none declared'}.",
        (
            f"- Trained with a penalty on {constraint.notion.replace('_', ' ')} by `{constraint.by}`,"
            f" strength {constraint.strength:g} (Bechavod and Ligett 2017)."
            if constraint
            else "- Trained without a fairness constraint."
        ),
        f"- The audit judges {', '.join(gates)}." if gates else "- The pipeline declares no fairness gate.",
    ]


def _limits(pipeline: Pipeline, built: Built) -> list[str]:
    trainer = pipeline.trainer
    limits = {
        "It knows rows like those it was trained on; `profile.json` says what they looked like.": True,
        "A category or word that the training split did not hold is treated as unknown, on average.": True,
        "Probabilities come as trained; no calibration was applied.": (
            pipeline.target.type != "regression" and not built.description.calibrated
        ),
        "Its figures count all rows alike; training weighed them.": bool(_weight(pipeline)),
        "Classes were weighted to count alike, so probabilities of rare classes are too high.": (
            trainer.class_weights == "balanced"
        ),
        "Training ended with its last planned epoch, not by early stopping: more epochs might have helped.": (
            trainer.early_stopping and built.history[-1].number == built.history[-1].epochs
        ),
        **dict.fromkeys(built.description.limits, True),
        f"Further limits, ethical considerations, contact: {NOT_STATED}": True,
    }
    return ["## Limits", "", *(f"- {limit}" for limit, holds in limits.items() if holds)]
