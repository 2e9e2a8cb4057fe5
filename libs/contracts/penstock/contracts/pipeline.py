"""The pipeline file as typed data: what a team declares once.

`load.py` reads the YAML (line numbers, nearest names); `rules.py` holds what no single key can say
(references that must exist, gates that must make sense). The models here hold shape, types, ranges
and defaults, nothing else.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints

from penstock.contracts.durations import format_duration, parse_duration
from penstock.contracts.measures import GateMetric, PromotionMetric, Task

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
FieldReference = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}\.[A-Za-z_][A-Za-z0-9_]{0,62}$")
]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
]
Scalar = bool | int | float | str


class Model(BaseModel):
    """Frozen; an unknown key is an error, and so is a number that is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class Entity(Model):
    key: FieldName
    """The event's field that names the entity."""


class SourceField(Model):
    """One field of a source's events. Ingest checks it and changes nothing beyond the declared type
    and unit.
    """

    type: Literal["number", "category", "text", "boolean"]
    unit: str | None = None
    """What the number is counted in, in words of your own: every value is taken to be in it, so a
    change of it is a new pipeline.
    """
    range: tuple[float, float] | None = None
    """Inclusive bounds, numbers only."""
    values: tuple[str, ...] | None = None
    """The allowed values, categories only."""
    required: bool = False
    on_violation: Literal["reject", "set_missing"] = "reject"
    personal: bool = False
    protected: bool = False
    """Travels for auditing; no model input unless a feature names it."""
    max_length: int = Field(default=10_000, ge=1, le=1_000_000)
    """Characters, text and categories."""


class Source(Model):
    entity: Name
    id: FieldName
    """The event's field that identifies the event: a repeat within `deduplicate` is dropped."""
    timestamp: FieldName
    """The event's field with the event time: RFC 3339, or seconds since the epoch."""
    deduplicate: Duration = timedelta(days=7)
    retention: Duration = timedelta(days=400)
    partitions: int = Field(default=2, ge=1, le=64)
    fields: dict[FieldName, SourceField] = Field(min_length=1)


class Feature(Model):
    """How a field enters the model. Fitted on the training split alone, and compiled into the ONNX graph."""

    source_field: FieldReference = Field(alias="from")
    impute: Literal["median", "mean", "zero"] | None = None
    """Numbers: what a missing value becomes (default median). An indicator of absence is always
    added where the training split has any.
    """
    clip: tuple[str | float, str | float] | None = None
    """Numbers: bounds, as values or as percentiles of the training split (`p01`)."""
    scale: Literal["standard", "minmax", "none"] | None = None
    encode: Literal["one_hot", "embedding", "bag_of_words"] | None = None
    """Categories: `embedding` (default) or `one_hot`; text: `bag_of_words`."""
    dimension: int | None = Field(default=None, ge=1, le=256)
    """Embedding width; by default min(32, (values + 1) // 2)."""
    vocabulary: int | None = Field(default=None, ge=1, le=50_000)
    """Words kept, most frequent first; default 1000."""
    min_count: int | None = Field(default=None, ge=1)
    """A category or word rarer than this in the training split counts as unknown; default 1."""


class Target(Model):
    source_field: FieldReference = Field(alias="from")
    type: Task
    positive: Scalar | None = None
    """Binary: the value that counts as 1 (default true for a boolean)."""


class SplitParts(Model):
    train: float = Field(default=0.6, gt=0, lt=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    audit: float = Field(default=0.3, gt=0, lt=1)


class Split(Model):
    by: Name
    """An entity's name (rows of one entity stay together, by hash) or `time` (oldest rows train,
    newest are audited).
    """
    parts: SplitParts = SplitParts()


class Trigger(Model):
    new_labels: int = Field(ge=1)
    """Start a run when this many labels have arrived since the last run's training set."""


class Training(Model):
    trigger: Trigger | None = None
    seed: int = Field(default=7, ge=0, lt=2**31)
    workers: int = Field(default=1, ge=1)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    max_age: Duration = timedelta(days=365)
    """Join: how old a feature row may be when its label is observed."""


class ModelSpec(Model):
    type: Literal["mlp", "linear"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (64, 32)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Optimizer(Model):
    type: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=1e-4, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD only."""


class Schedule(Model):
    type: Literal["constant", "cosine", "linear"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps spent rising from 0 to the learning rate."""


class EarlyStopping(Model):
    patience: int = Field(default=5, ge=1)
    """Epochs without a better validation loss before training stops; the best epoch's weights are kept."""
    min_delta: float = Field(default=0.0, ge=0)


class FairnessConstraint(Model):
    notion: Literal["demographic_parity", "equalized_odds", "equal_opportunity"]
    by: FieldName
    strength: float = Field(default=1.0, ge=0)


class Trainer(Model):
    epochs: int = Field(default=30, ge=1, le=10_000)
    batch_size: int = Field(default=256, ge=1)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    early_stopping: EarlyStopping | None = EarlyStopping()
    class_weights: Literal["balanced", "none"] = "none"
    gradient_clip: float | None = Field(default=None, gt=0)
    fairness: FairnessConstraint | None = None


class Threshold(Model):
    choose: Literal["max_f1", "max_accuracy", "fixed"] = "max_f1"
    on: Literal["validation"] = "validation"
    value: float | None = Field(default=None, gt=0, lt=1)
    """With `choose: fixed`."""


class Decision(Model):
    threshold: Threshold = Threshold()
    abstain: tuple[float, float] | None = None
    """Probabilities in this closed interval get the decision `abstain`."""


class Group(Model):
    min_rows: int = Field(default=30, ge=1)
    """A cell (group x label) with fewer audit rows makes its gates inconclusive."""
    bins: tuple[float, ...] | None = None
    """Numbers: inner edges; [25, 40] makes <25, 25-40, >=40."""


class Gate(Model):
    metric: GateMetric
    by: FieldName | None = None
    """Fairness metrics: the group."""
    at_least: float | None = None
    at_most: float | None = None
    judge: Literal["lower_bound", "upper_bound", "estimate"] | None = None
    """By default the bound on the unfavourable side."""
    on_fail: Literal["block", "review"] = "block"


class Audit(Model):
    groups: dict[FieldName, Group] = Field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=1000, ge=100, le=100_000)


class Promotion(Model):
    compare: Literal["champion", "none"] = "champion"
    metric: PromotionMetric = "auroc"
    max_drop: float = Field(default=0.005, ge=0)


class Batch(Model):
    max_size: int = Field(default=64, ge=1, le=4096)
    max_delay: Duration = timedelta(0)


class Serving(Model):
    batch: Batch = Batch()
    record: Literal["required", "best_effort"] = "best_effort"
    record_retention: Duration = timedelta(days=90)


class Pipeline(Model):
    version: Literal[1]
    pipeline: Name
    entities: dict[Name, Entity] = Field(min_length=1)
    sources: dict[Name, Source] = Field(min_length=1)
    features: dict[FieldName, Feature] = Field(default_factory=dict)
    """Empty: every field of the target's-entity sources that is neither protected, personal nor target."""
    targets: dict[FieldName, Target] = Field(min_length=1, max_length=1)
    split: Split | None = None
    """Default: by the first entity."""
    training: Training = Training()
    model: ModelSpec = ModelSpec()
    trainer: Trainer = Trainer()
    decision: Decision = Decision()
    audit: Audit = Audit()
    promotion: Promotion = Promotion()
    serving: Serving = Serving()

    @property
    def entity(self) -> str:
        """The first entity: Kafka key, split unit, erasure unit."""
        return next(iter(self.entities))

    @property
    def key(self) -> str:
        """The event field that names the first entity."""
        return self.entities[self.entity].key

    @property
    def target(self) -> Target:
        return next(iter(self.targets.values()))

    def field(self, reference: str) -> SourceField:
        """`applications.income` → its declaration. Raises KeyError."""
        source, _, name = reference.partition(".")
        return self.sources[source].fields[name]

    def reference(self, name: str) -> str:
        """The `source.field` that a bare field name means. Raises KeyError where no source, or more
        than one, has it.
        """
        found = [f"{source}.{name}" for source, declared in self.sources.items() if name in declared.fields]
        if len(found) != 1:
            raise KeyError(name)
        return found[0]

    def default_features(self) -> list[str]:
        """As `source.field`: all that may be seen and is not the target."""
        return [
            reference
            for source_name, source in self.sources.items()
            for name, field in source.fields.items()
            if not (field.protected or field.personal)
            and (reference := f"{source_name}.{name}") != self.target.source_field
        ]

    def resolved_features(self) -> dict[str, Feature]:
        """The declared features, or the default ones, each with every choice made explicit for its
        field's type.
        """
        declared = self.features or {
            reference.partition(".")[2]: Feature(source_field=reference)
            for reference in self.default_features()
        }
        return {
            name: _explicit(feature, self.field(feature.source_field)) for name, feature in declared.items()
        }


def _explicit(feature: Feature, field: SourceField) -> Feature:
    match field.type:
        case "number":
            defaults: dict[str, object] = {"impute": "median", "scale": "standard"}
        case "category" | "boolean":
            defaults = {"encode": "embedding" if field.type == "category" else "one_hot", "min_count": 1}
        case "text":
            defaults = {"encode": "bag_of_words", "vocabulary": 1000, "min_count": 1}
    chosen = {key: value for key, value in defaults.items() if getattr(feature, key) is None}
    return feature.model_copy(update=chosen)
