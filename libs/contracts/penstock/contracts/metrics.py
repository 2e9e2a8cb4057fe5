"""The metrics catalogue: every instrument is data, with its unit, its attributes and the services
that report it.

Names and units are OpenTelemetry's (UCUM; what is counted stands in braces), those of its semantic
conventions where it has one. Attributes take few values: pipelines, sources, topics, groups, kinds,
outcomes, the digest that is served; never an entity, an event, a prediction or a person.
Dashboards, alerts and `docs/metrics.md` are made from this table, and a test compares it with what
a running stack reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.contracts.services import PLATFORM

Kind = Literal["counter", "updowncounter", "gauge", "histogram"]

SERVICES = tuple(PLATFORM)
STORING = tuple(name for name, service in PLATFORM.items() if service.database)
WORKING = tuple(name for name, service in PLATFORM.items() if service.jobs)
CONSUMING = tuple(name for name, service in PLATFORM.items() if service.consumer_group)

CALL_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Buckets of what somebody waits for."""
DELAY_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""Buckets of what is on its way from one service to the next."""
WORK_S = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)
"""Buckets of long work."""

_UNITS = {"s": "seconds", "By": "bytes"}


@dataclass(frozen=True)
class Metric:
    name: str
    kind: Kind
    unit: str
    about: str
    attributes: tuple[str, ...] = ()
    services: tuple[str, ...] = SERVICES
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's."""
    shared: bool = False
    """Each replica tells of the database that they share: the largest counts, not the sum."""

    @property
    def prometheus(self) -> str:
        """Name in Prometheus (a histogram's without `_bucket`, `_sum`, `_count`), as its OTLP
        receiver translates it.
        """
        words = [*self.name.split("."), *([_UNITS[self.unit]] if self.unit in _UNITS else [])]
        return "_".join([*words, *(["total"] if self.kind == "counter" else [])])

    @property
    def series(self) -> tuple[str, ...]:
        """The names that it has there."""
        return (
            tuple(f"{self.prometheus}_{part}" for part in ("bucket", "sum", "count"))
            if self.buckets
            else (self.prometheus,)
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Attributes as Prometheus' labels; besides them each series has `job`
        (`penstock.<service>`) and `instance` (the replica).
        """
        return tuple(attribute.replace(".", "_") for attribute in self.attributes)


_DESTINATION, _GROUP = "messaging.destination.name", "messaging.consumer.group.name"
_CONSUMING = ("messaging.system", "messaging.operation.name", _DESTINATION, _GROUP)

# -- every service ---------------------------------------------------------------------------------

READY = Metric(
    "penstock.service.ready", "gauge", "{service}", "1 while the service waits for nothing, else 0."
)
WAITING = Metric(
    "penstock.service.waiting",
    "gauge",
    "{thing}",
    "How many things of this sort the service waits for, while it does.",
    ("thing",),
)
HOME_FREE = Metric(
    "penstock.home.free", "gauge", "By", "Free space of the file system that holds PENSTOCK_HOME."
)
HOME_SIZE = Metric("penstock.home.size", "gauge", "By", "Size of the file system that holds PENSTOCK_HOME.")
CPU = Metric(
    "process.cpu.time",
    "counter",
    "s",
    "Processor time of the service's process, without its jobs.",
    ("cpu.mode",),
)
MEMORY = Metric(
    "process.memory.usage",
    "updowncounter",
    "By",
    "Physical memory of the service's process, without its jobs.",
)
THREADS = Metric("process.thread.count", "updowncounter", "{thread}", "Threads of the service's process.")
FILES = Metric(
    "process.unix.file_descriptor.count",
    "updowncounter",
    "{file_descriptor}",
    "Open files of the service's process.",
)
UPTIME = Metric("process.uptime", "gauge", "s", "Time since the process started.")
CALLS = Metric(
    "rpc.server.call.duration",
    "histogram",
    "s",
    "gRPC calls that the service answered; a stream lasts until it ends.",
    ("rpc.system.name", "rpc.method", "rpc.response.status_code"),
    buckets=CALL_S,
)

# -- Kafka -----------------------------------------------------------------------------------------

CONSUMED = Metric(
    "messaging.client.consumed.messages",
    "counter",
    "{message}",
    "Messages taken from a topic, those that come again too.",
    _CONSUMING,
    CONSUMING,
)
PROCESSED = Metric(
    "messaging.process.duration",
    "histogram",
    "s",
    "Work on one control event, or on one batch of one partition.",
    _CONSUMING,
    CONSUMING,
    CALL_S,
)
SENT = Metric(
    "messaging.client.sent.messages",
    "counter",
    "{message}",
    "Messages given to Kafka, those that are given again too.",
    ("messaging.system", "messaging.operation.name", _DESTINATION),
)
LAG = Metric(
    "penstock.consumer.lag",
    "gauge",
    "{message}",
    "Messages of a topic that wait before the group.",
    (_DESTINATION, _GROUP),
)
TRANSACTIONS = Metric(
    "penstock.transaction.duration",
    "histogram",
    "s",
    "Kafka transactions from begin to commit, the work on the batch included.",
    (_GROUP,),
    ("ingest", "inference"),
    CALL_S,
)
INTERRUPTIONS = Metric(
    "penstock.stream.interruptions",
    "counter",
    "{session}",
    "Sessions with Kafka that ended in an error and began anew.",
    (_GROUP,),
    ("ingest", "feature_store", "inference"),
)

CONTROL_EVENTS = Metric(
    "penstock.control.events",
    "counter",
    "{event}",
    "Control events that were `applied`, `skipped` (seen before, or not handled here), `retried`, `rejected`"
    " into a dead letter; read at a start or after it as a topic's state (`replayed`), or `left_out` of"
    " that.",
    (_DESTINATION, _GROUP, "outcome"),
)
OUTBOX = Metric(
    "penstock.outbox.rows",
    "gauge",
    "{event}",
    "Events that are decided and not yet in Kafka.",
    services=STORING,
    shared=True,
)
OUTBOX_AGE = Metric(
    "penstock.outbox.age",
    "gauge",
    "s",
    "How long the oldest of them waits; 0 when none does.",
    services=STORING,
    shared=True,
)

# -- jobs ------------------------------------------------------------------------------------------

JOBS = Metric(
    "penstock.jobs",
    "gauge",
    "{job}",
    "Jobs `queued` and `running`.",
    ("kind", "state"),
    WORKING,
    shared=True,
)
JOB_WAIT = Metric(
    "penstock.job.wait",
    "gauge",
    "s",
    "How long the oldest queued job waits; 0 when none does.",
    ("kind",),
    WORKING,
    shared=True,
)
JOB_DURATION = Metric(
    "penstock.job.duration",
    "histogram",
    "s",
    "One start of a job's process until it is `done`, `failed` for good, put back because it is to be"
    " `retried`, `crashed`, was `canceled` or `stopped` with the service.",
    ("kind", "outcome"),
    WORKING,
    WORK_S,
)
JOB_MEMORY = Metric(
    "penstock.job.memory",
    "gauge",
    "By",
    "Physical memory of the jobs' processes that run.",
    ("kind",),
    WORKING,
)

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
    "Lines of the door's log: `recorded` whole, `undecoded` in part, or `unattributed`: of no pipeline ever"
    " served, not published.",
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

CATALOGUE: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
