"""Metrics of the edge hub, about sites."""

from __future__ import annotations

from penstock.contracts.metrics.metric import Metric

FORWARDED = Metric(
    "penstock.edge.forwarded",
    "counter",
    "{record}",
    "Records that sites forwarded, by lane: `written` to their topics, `rejected` as dead letters;"
    " `dropped` are those that a site could not keep.",
    ("lane", "outcome"),
    ("edge_gateway",),
)
SITES = Metric(
    "penstock.edge.sites",
    "gauge",
    "{site}",
    "Sites that are `invited`, `enrolled` or `revoked`.",
    ("state",),
    ("edge_gateway",),
    shared=True,
)
SITE_SILENCE = Metric(
    "penstock.edge.silence",
    "gauge",
    "s",
    "Longest time since an enrolled site was heard of.",
    services=("edge_gateway",),
    shared=True,
)
SITE_SPOOL = Metric(
    "penstock.edge.spool",
    "gauge",
    "{fraction}",
    "How full the fullest lane of a site is, from 0 to 1, as it said last.",
    services=("edge_gateway",),
    shared=True,
)
SITE_CLOCK = Metric(
    "penstock.edge.clock_skew",
    "gauge",
    "s",
    "Largest difference of a site's clock to the hub's, either way.",
    services=("edge_gateway",),
    shared=True,
)
SITE_REFUSALS = Metric(
    "penstock.edge.refusals",
    "gauge",
    "{pipeline}",
    "Pipelines of sites whose newest version the site would not serve.",
    services=("edge_gateway",),
    shared=True,
)
SITE_TRUST = Metric(
    "penstock.edge.trust_age",
    "gauge",
    "s",
    "Longest time for which a site has been without the newest change of the keys that count.",
    services=("edge_gateway",),
    shared=True,
)
FALLBACKS = Metric(
    "penstock.edge.fallbacks",
    "counter",
    "{prediction}",
    "Questions of sites that the platform was asked instead, by outcome: `answered`, or the kind of error."
    " Each site's own answers are in `penstock_edge_forwarded_total`.",
    ("outcome",),
    ("edge_gateway",),
)
SITE_BREAKERS = Metric(
    "penstock.edge.breakers",
    "gauge",
    "{pipeline}",
    "Pipelines of a site for which it does not ask the platform for now, as that did not answer.",
    services=("edge_gateway",),
    shared=True,
)
