"""The pipeline file as typed data: what a team declares once.

`contracts.load` reads the YAML (line numbers, nearest names); `contracts.rules` holds what no
single key can say (references that must exist, gates that must make sense). The models here hold
shape, types, ranges and defaults, nothing else.
"""

from penstock.contracts.pipeline.audit import Audit, Gate, Group, Promotion
from penstock.contracts.pipeline.base import (
    Duration,
    FieldName,
    FieldReference,
    Model,
    Name,
    Scalar,
)
from penstock.contracts.pipeline.features import (
    BagOfWords,
    ByField,
    Embedding,
    Feature,
    Number,
    OneHot,
    Treatment,
)
from penstock.contracts.pipeline.file import (
    Batch,
    Decision,
    Pipeline,
    Serving,
    Split,
    SplitParts,
    Target,
    Threshold,
    Training,
    Trigger,
)
from penstock.contracts.pipeline.model import BoostedTrees, FamilySpec, Linear, Mlp, ModelSpec, Monotone
from penstock.contracts.pipeline.sources import Entity, Format, Json, Source, SourceField
from penstock.contracts.pipeline.trainer import (
    Adam,
    Adamw,
    ConstantSchedule,
    CosineSchedule,
    EarlyStopping,
    FairnessConstraint,
    LinearSchedule,
    Optimizer,
    Schedule,
    Sgd,
    Trainer,
)

__all__ = [
    "Adam",
    "Adamw",
    "Audit",
    "BagOfWords",
    "Batch",
    "BoostedTrees",
    "ByField",
    "ConstantSchedule",
    "CosineSchedule",
    "Decision",
    "Duration",
    "EarlyStopping",
    "Embedding",
    "Entity",
    "FairnessConstraint",
    "FamilySpec",
    "Feature",
    "FieldName",
    "FieldReference",
    "Format",
    "Gate",
    "Group",
    "Json",
    "Linear",
    "LinearSchedule",
    "Mlp",
    "Model",
    "ModelSpec",
    "Monotone",
    "Name",
    "Number",
    "OneHot",
    "Optimizer",
    "Pipeline",
    "Promotion",
    "Scalar",
    "Schedule",
    "Serving",
    "Sgd",
    "Source",
    "SourceField",
    "Split",
    "SplitParts",
    "Target",
    "Threshold",
    "Trainer",
    "Training",
    "Treatment",
    "Trigger",
]
