"""The metrics catalogue: every instrument is data, with its unit, its attributes and the services
that report it.

Names and units are OpenTelemetry's (UCUM; what is counted stands in braces), those of its semantic
conventions where it has one. Attributes take few values: pipelines, sources, topics, groups, kinds,
outcomes, the digest that is served; never an entity, an event, a prediction or a person.
Dashboards, alerts and `docs/metrics.md` are made from this table, and a test compares it with what
a running stack reports.
"""

from penstock.contracts.metrics.metric import SERVICES as SERVICES
from penstock.contracts.metrics.metric import Metric as Metric

# One flat namespace, `metrics.READY`, `metrics.REJECTS`: a name is a metric wherever it stands.
from penstock.contracts.metrics.runtime import *  # noqa: F403
from penstock.contracts.metrics.services import *  # noqa: F403
from penstock.contracts.metrics.sites import *  # noqa: F403

CATALOGUE: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
