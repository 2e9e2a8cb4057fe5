"""Metrics that the runtime reports: of every service, of Kafka, of jobs."""

from __future__ import annotations

from penstock.contracts.metrics.metric import CALL_S, CONSUMING, STORING, WORK_S, WORKING, Metric

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
    ("ingest", "feature_store", "inference", "edge_gateway"),
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
DEAD_LETTERS = Metric(
    "penstock.dead.letters",
    "counter",
    "{message}",
    "Messages that could not be applied and were left out, a dead letter each; one that is read anew at each"
    " start counts at each.",
    (_DESTINATION, _GROUP),
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
    "Physical memory of the jobs' processes that run; what they share with one another counts for each.",
    ("kind",),
    WORKING,
)
