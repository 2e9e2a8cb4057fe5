"""The cluster: three Kafka nodes and two replicas of most services. Any one may die or be
restarted, and the others go on.

Each failure comes under a steady 200 events/s and predictions. What took how long is printed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import orjson
import pytest
from census import Served, pipeline_text, serve
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from load import Publishing, everything, record_ids, under_load

from penstock.contracts.errors import Unavailable
from penstock.contracts.events import TrainingRunCompleted
from penstock.contracts.services import PLATFORM
from penstock.testing.compose import SERVICES, ComposeUnderTest, running_compose
from penstock.testing.prometheus import Prometheus
from penstock.testing.wait import until
from penstock.trainer.v1 import trainer_pb2 as trainer

pytestmark = [pytest.mark.compose, pytest.mark.slow]

NODES = ("kafka", "kafka-2", "kafka-3")
REPLICATED = tuple(service.container for service in PLATFORM.values() if service.replicas > 1)
EVERYTHING = (*NODES, "redis", "postgres", "triton", "gateway", "envoy", *SERVICES)
TAKEN_OVER_WITHIN = 30
BACK_WITHIN = 120


@pytest.fixture(scope="module")
def cluster(engine: None) -> Iterator[ComposeUnderTest]:
    with running_compose("cluster", "observability") as under_test:
        print(f"\nup in {under_test.seconds_up:.0f} s")
        yield under_test


@pytest.fixture(scope="module")
def served_by_cluster(cluster: ComposeUnderTest) -> Served:
    return serve(cluster.client)


def test_there_are_three_nodes_and_two_replicas(cluster: ComposeUnderTest, served_by_cluster: Served) -> None:
    assert {service: len(cluster.containers(service)) for service in REPLICATED} == dict.fromkeys(
        REPLICATED, 2
    )
    for service in EVERYTHING:
        cluster.healthy(service)
    assert len(cluster.bootstrap_servers.split(",")) == len(NODES)
    print(f"\nholds {cluster.memory_bytes() / 2**30:.1f} GiB")


def test_it_is_seen_as_one(cluster: ComposeUnderTest) -> None:
    """With the observability overlay on top."""
    prometheus = Prometheus(cluster.prometheus_address)
    jobs = {"prometheus", "otel-collector", "triton", "envoy"}
    until(lambda: prometheus.targets() == dict.fromkeys(jobs, "up"), within=60, what="all targets are up")


def test_every_topic_is_on_all_nodes_and_acknowledged_by_two(
    cluster: ComposeUnderTest, served_by_cluster: Served
) -> None:
    admin = AdminClient(cluster.kafka("admin").client())
    topics = admin.list_topics(timeout=30).topics
    assert {
        "__consumer_offsets",
        "__transaction_state",
        "pipelines.v1",
        "census.people.events.v1",
        "census.predictions.v1",
    } <= set(topics)
    assert {
        len(partition.replicas) for topic in topics.values() for partition in topic.partitions.values()
    } == {3}
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in topics])
    assert {entry.result()["min.insync.replicas"].value for entry in asked.values()} == {"2"}


# -- one that dies ---------------------------------------------------------------------------------


def test_kafka_goes_on_with_two_nodes_and_waits_with_one(
    cluster: ComposeUnderTest, served_by_cluster: Served
) -> None:
    with under_load(served_by_cluster, "two-nodes", patient=True) as (published, load):
        with cluster.dead("kafka-2"):
            took("the other nodes took over", published.grows)
            load.grows()
            with cluster.dead("kafka-3"):
                none_acknowledged(published, for_s=10)
                load.grows()
            took("the second node came back", published.grows)
        in_sync(cluster)
        cluster.ready(within=BACK_WITHIN)


def test_the_other_ingest_takes_over(cluster: ComposeUnderTest, served_by_cluster: Served) -> None:
    def recorded() -> None:
        until(
            lambda: set(sent) <= record_ids(served_by_cluster, "two-ingests").keys(),
            within=TAKEN_OVER_WITHIN,
            what="all are records",
        )

    with under_load(served_by_cluster, "two-ingests", patient=True) as (published, _):
        for number in range(2):
            with cluster.dead("ingest", number):
                published.grows()
                sent = list(published.acknowledged)
                took(f"ingest {number}", recorded)
            cluster.healthy("ingest")


def test_the_other_feature_store_takes_over(cluster: ComposeUnderTest, served_by_cluster: Served) -> None:
    served, name = served_by_cluster, "two-stores"

    def in_the_lake(event_id: str) -> bool:
        try:
            return bool(served.client.features.records(name, "people", id=event_id))
        except Unavailable:  # for as long as nobody owns the lake
            return False

    def reads_on() -> None:
        newest = published.acknowledged[-1]
        until(lambda: in_the_lake(newest), within=TAKEN_OVER_WITHIN, what=f"{newest} is in the lake")

    with under_load(served, name, patient=True) as (published, _):
        for number in range(2):
            with cluster.dead("feature-store", number):
                took(f"feature-store {number}", reads_on)
            cluster.healthy("feature-store")
    run = served.journey.run(name)
    assert run.state == trainer.Run.STATE_COMPLETED, run.failure
    assert sum(orjson.loads(run.training_set_json)["rows"].values()) == record_ids(served, name).total()


def test_the_other_trainer_goes_on_with_a_run(cluster: ComposeUnderTest, served_by_cluster: Served) -> None:
    served, name = served_by_cluster, "two-trainers"
    epochs = 150
    with under_load(served, "meanwhile", patient=True):
        served.client.pipelines.apply(text(name, epochs=epochs), by="test")
        served.journey.publish(name, "people", served.events)
        run = served.client.runs.create(
            name,
            after=served.client.events.end_offsets(name),
            by="test",
            overrides={"trainer.early_stopping": None},
        )
        until(
            lambda: len(served.client.runs.get(run.run_id).epochs) >= 2,
            within=120,
            what="two epochs are done",
        )
        with cluster.dead("trainer", working(cluster)):
            told = len(served.client.runs.get(run.run_id).epochs)
            took(
                "trainer",
                lambda: until(
                    lambda: len(served.client.runs.get(run.run_id).epochs) > told,
                    within=60,
                    what="it goes on",
                ),
            )
            ended = served.journey.ended(run.run_id)
        cluster.healthy("trainer")
    assert ended.state == trainer.Run.STATE_COMPLETED, ended.failure
    assert ended.attempts == 2
    assert [epoch.number for epoch in ended.epochs] == list(range(1, epochs + 1))
    served.journey.decided(name, ended.digest)
    assert told_of(served, TrainingRunCompleted.topic, run.run_id)[TrainingRunCompleted.ce_type()] == 1
    assert [version.digest for version in served.client.models.list(name)] == [ended.digest]


def test_the_other_registry_answers_and_promotes(
    cluster: ComposeUnderTest, served_by_cluster: Served
) -> None:
    served, name = served_by_cluster, "two-registries"
    with under_load(served, name, patient=True):
        for number in range(2):
            with cluster.dead("model-registry", number):
                began = time.monotonic()
                assert (
                    served.client.pipelines.apply(text(name, epochs=3 + number), by="test").number
                    == 2 + number
                )
                version = served.journey.train(name, {"training.seed": number})
                served.journey.until_served(name, version.digest)
                print(
                    f"\nmodel-registry {number}: applied, trained, audited, promoted and served in"
                    f" {time.monotonic() - began:.1f} s"
                )
            cluster.healthy("model-registry")
    assert [
        serving.generation
        for serving in served.client.predictions.serving().pipelines
        if serving.pipeline == name
    ] == [2]
    assert len(served.client.models.list(name)) == 2


# -- everything, one after the other ---------------------------------------------------------------


def test_a_rolling_restart_of_everything_fails_no_prediction_and_loses_no_event(
    cluster: ComposeUnderTest, served_by_cluster: Served
) -> None:
    began = time.monotonic()
    with under_load(served_by_cluster, "rolled", patient=True) as (published, load):
        for service in EVERYTHING:
            cluster.roll(service)
            in_sync(cluster)
    print(
        f"\n{len(published.acknowledged)} events, {len(load.answered)} predictions in"
        f" {time.monotonic() - began:.0f} s"
    )
    assert load.failed == {}
    assert published.failed == {}
    version = served_by_cluster.journey.train("rolled")
    served_by_cluster.journey.until_served("rolled", version.digest)


# -- helpers ---------------------------------------------------------------------------------------


def took(what: str, wait: Callable[[], object]) -> None:
    began = time.monotonic()
    wait()
    print(f"\n{what}: {time.monotonic() - began:.1f} s")


def none_acknowledged(published: Publishing, *, for_s: float) -> None:
    """Nothing for so long, once what was under way has arrived."""
    known, since = -1, 0.0

    def quiet() -> bool:
        nonlocal known, since
        if (now := len(published.acknowledged)) != known:
            known, since = now, time.monotonic()
        return time.monotonic() - since >= for_s

    until(quiet, within=3 * for_s, what=f"nothing is acknowledged for {for_s:.0f} s")


def in_sync(cluster: ComposeUnderTest) -> None:
    """Each partition is on all nodes again: another one may go."""
    admin = AdminClient(cluster.kafka("admin").client())

    def behind() -> list[str]:
        topics = admin.list_topics(timeout=30).topics.values()
        return [
            topic.topic
            for topic in topics
            for partition in topic.partitions.values()
            if len(partition.isrs) < len(NODES)
        ]

    until(lambda: not behind(), within=BACK_WITHIN, what="all partitions are in sync")


def working(cluster: ComposeUnderTest) -> int:
    """The number of the trainer that has a job's process."""
    found = [number for number in range(2) if "penstock_trainer.job" in cluster.processes("trainer", number)]
    assert len(found) == 1
    return found[0]


def told_of(served: Served, topic: str, key: str) -> Counter[str]:
    """How often each kind of event is on a topic under a key."""
    messages = (message for message in everything(served).read(topic) if message.key() == key.encode())
    return Counter(dict(message.headers() or ())["ce_type"].decode() for message in messages)


def text(name: str, *, epochs: int) -> str:
    return pipeline_text(name, gates="[]", epochs=epochs, compare="none")
