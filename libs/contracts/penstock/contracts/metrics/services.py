"""Metrics that one service reports, by service."""

from __future__ import annotations

from penstock.contracts.metrics.metric import CALL_S, DELAY_S, WORK_S, Metric

# -- ingest ----------------------------------------------------------------------------------------

EVENTS = Metric(
    "penstock.ingest.events",
    "counter",
    "{event}",
    "Events that became a `record` or a `reject`, or were dropped as a `duplicate`.",
    ("pipeline", "source", "outcome"),
    ("ingest",),
)
REJECTS = Metric(
    "penstock.ingest.rejects",
    "counter",
    "{event}",
    "Rejects by reason.",
    ("pipeline", "source", "reason"),
    ("ingest",),
)
FORGOTTEN = Metric(
    "penstock.ingest.forgotten",
    "counter",
    "{event}",
    "Ids dropped within the deduplication window because the capacity was reached: repeats of these go"
    " unnoticed.",
    ("pipeline", "source"),
    ("ingest",),
)
INGEST_DELAY = Metric(
    "penstock.ingest.delay",
    "histogram",
    "s",
    "From the oldest event of a batch being published to the commit of what became of it.",
    ("pipeline", "source"),
    ("ingest",),
    DELAY_S,
)

# -- feature_store ---------------------------------------------------------------------------------

LAKE_ROWS = Metric(
    "penstock.lake.rows", "gauge", "{row}", "Records in the lake.", ("pipeline", "source"), ("feature_store",)
)
LAKE_FILES = Metric(
    "penstock.lake.files",
    "gauge",
    "{file}",
    "Parquet files in the lake.",
    ("pipeline", "source"),
    ("feature_store",),
)
ONLINE_BEHIND = Metric(
    "penstock.online.behind",
    "gauge",
    "{row}",
    "Records in the lake that are not online yet.",
    ("pipeline", "source"),
    ("feature_store",),
)
ONLINE_DELAY = Metric(
    "penstock.online.delay",
    "histogram",
    "s",
    "From ingest publishing the oldest record of a step to its values being online.",
    ("pipeline", "source"),
    ("feature_store",),
    DELAY_S,
)
ONLINE_READS = Metric(
    "penstock.online.read.duration",
    "histogram",
    "s",
    "Reads of online features, one call each.",
    ("pipeline",),
    ("feature_store",),
    CALL_S,
)
ONLINE_ENTITIES = Metric(
    "penstock.online.entities",
    "counter",
    "{entity}",
    "Entities whose online features were asked for: `found`, `not_found` or `expired`.",
    ("pipeline", "status"),
    ("feature_store",),
)
ONLINE_AGE = Metric(
    "penstock.online.age",
    "histogram",
    "s",
    "Age, by its own time, of the newest event behind the features of an entity that was asked for.",
    ("pipeline",),
    ("feature_store",),
    (1, 60, 600, 3600, 21600, 86400, 604800, 2592000, 31536000),
)
TRAINING_SETS = Metric(
    "penstock.training_set.duration",
    "histogram",
    "s",
    "Training sets, `created` or `refused`: the wait for an erasure, the join and the writing.",
    ("pipeline", "outcome"),
    ("feature_store",),
    WORK_S,
)
ERASED = Metric(
    "penstock.erasures",
    "counter",
    "{entity}",
    "Entities that were erased.",
    ("pipeline",),
    ("feature_store",),
)

# -- trainer ---------------------------------------------------------------------------------------

RUNS = Metric(
    "penstock.runs",
    "gauge",
    "{run}",
    "Training runs that have not ended.",
    ("state",),
    ("trainer",),
    shared=True,
)
RUN_DURATION = Metric(
    "penstock.run.duration",
    "histogram",
    "s",
    "Training runs from the wish to the end: `completed`, `failed` or `canceled`.",
    ("pipeline", "outcome"),
    ("trainer",),
    WORK_S,
)
EPOCHS = Metric("penstock.run.epochs", "counter", "{epoch}", "Epochs trained.", ("pipeline",), ("trainer",))
RUN_ROWS = Metric(
    "penstock.run.rows",
    "counter",
    "{row}",
    "Rows that models were trained on, once an epoch.",
    ("pipeline",),
    ("trainer",),
)
RUN_STEP = Metric(
    "penstock.run.step.duration",
    "histogram",
    "s",
    "Training steps, of trees rounds: each epoch's mean.",
    ("pipeline",),
    ("trainer",),
    CALL_S,
)
RUN_TIME = Metric(
    "penstock.run.time",
    "counter",
    "s",
    "Time of epochs, by `part`: `data` (cutting batches), `compute`, and `communication` (waiting"
    " for the other workers).",
    ("pipeline", "part"),
    ("trainer",),
)
RUN_GPU_TIME = Metric(
    "penstock.run.gpu.time",
    "counter",
    "s",
    "Time of epochs in which a step was under way on a GPU, of several workers the first one's.",
    ("pipeline",),
    ("trainer",),
)
RUN_GPU_MEMORY = Metric(
    "penstock.run.gpu.memory",
    "gauge",
    "By",
    "Most memory of a GPU that tensors took in the newest epoch of runs that train on one, of several"
    " workers the first one's.",
    ("pipeline",),
    ("trainer",),
    shared=True,
)

# -- tuner -----------------------------------------------------------------------------------------

STUDIES = Metric(
    "penstock.studies",
    "gauge",
    "{study}",
    "Tuning studies that have not ended.",
    ("state",),
    ("tuner",),
    shared=True,
)
STUDY_DURATION = Metric(
    "penstock.study.duration",
    "histogram",
    "s",
    "Tuning studies from the wish to the end: `completed`, `failed` or `canceled`.",
    ("pipeline", "outcome"),
    ("tuner",),
    WORK_S,
)
TRIALS = Metric(
    "penstock.study.trials",
    "counter",
    "{trial}",
    "Trials that ended: `complete`, `pruned` or `failed`.",
    ("pipeline", "outcome"),
    ("tuner",),
)

# -- model_registry --------------------------------------------------------------------------------

PACKAGES = Metric(
    "penstock.packages",
    "counter",
    "{package}",
    "Packages that runs handed in: `registered`, or `refused` before anything was signed.",
    ("pipeline", "outcome"),
    ("model_registry",),
)
DECISIONS = Metric(
    "penstock.decisions",
    "counter",
    "{decision}",
    "What became of versions: `promoted`, `rolled_back`, `refused`, `awaits_review`.",
    ("pipeline", "decision"),
    ("model_registry",),
)
VERSIONS = Metric(
    "penstock.versions",
    "gauge",
    "{version}",
    "Model versions by state.",
    ("state",),
    ("model_registry",),
    shared=True,
)

# -- ethics_audit ----------------------------------------------------------------------------------

AUDITS = Metric(
    "penstock.audit.duration",
    "histogram",
    "s",
    "Audits from the version's registration to the verdict: `pass`, `fail`, `inconclusive`; or `none` where"
    " the audit could not be carried out.",
    ("pipeline", "verdict"),
    ("ethics_audit",),
    WORK_S,
)
AUDIT_BACKLOG = Metric(
    "penstock.audit.backlog",
    "gauge",
    "{audit}",
    "Audits that have begun and not ended.",
    services=("ethics_audit",),
    shared=True,
)
AUDIT_AGE = Metric(
    "penstock.audit.backlog.age",
    "gauge",
    "s",
    "How long the oldest of them is under way; 0 when none is.",
    services=("ethics_audit",),
    shared=True,
)
REVIEWS = Metric(
    "penstock.reviews.open",
    "gauge",
    "{review}",
    "Reviews that wait for a person.",
    services=("ethics_audit",),
    shared=True,
)
REVIEW_AGE = Metric(
    "penstock.reviews.open.age",
    "gauge",
    "s",
    "How long the oldest of them waits; 0 when none does.",
    services=("ethics_audit",),
    shared=True,
)

# -- inference -------------------------------------------------------------------------------------

PREDICTIONS = Metric(
    "penstock.prediction.duration",
    "histogram",
    "s",
    "Recorded calls for predictions, by gRPC status or HTTP status code, as the door measured them.",
    ("pipeline", "protocol", "status"),
    ("inference",),
    CALL_S,
)
PREDICTED_ROWS = Metric(
    "penstock.prediction.rows", "counter", "{row}", "Rows that were predicted.", ("pipeline",), ("inference",)
)
RECORDED = Metric(
    "penstock.recorder.lines",
    "counter",
    "{line}",
    "Lines of the door's log: `recorded` whole, `undecoded` in part, or `unattributed`, not published: of no"
    " pipeline that was ever served, or a line that cannot be read (the service's log says why).",
    ("outcome",),
    ("inference",),
)
RECORDER_BACKLOG = Metric(
    "penstock.recorder.backlog",
    "gauge",
    "By",
    "What of the door's log is not yet published.",
    services=("inference",),
)
DOOR_CLOSED = Metric(
    "penstock.door.closed",
    "gauge",
    "{door}",
    "1 while no prediction is let in because it could not be recorded, else 0.",
    services=("inference",),
)
DOOR_HELD = Metric(
    "penstock.door.held",
    "gauge",
    "{door}",
    "1 while predictions wait in the door because Triton is away or has not loaded again what it served,"
    " else 0.",
    services=("inference",),
)
DEPLOYMENTS = Metric(
    "penstock.deployments",
    "gauge",
    "{pipeline}",
    "Pipelines with a version that may serve (`wanted`), those that Triton answers for (`served`), and those"
    " whose newest promotion was `refused` here.",
    ("state",),
    ("inference",),
)
SERVED = Metric(
    "penstock.deployment.generation",
    "gauge",
    "{generation}",
    "The generation that a pipeline serves, and its digest's first digits.",
    ("pipeline", "digest"),
    ("inference",),
)
DEPLOYED = Metric(
    "penstock.deployment.duration",
    "histogram",
    "s",
    "Promotions tried: verified, probed and switched to (`served`), `refused`, or put off (`retried`).",
    ("pipeline", "outcome"),
    ("inference",),
    WORK_S,
)
