"""`docs/operations.md`, followed to the letter on the session's stack: its commands as they stand, a
real name for each word in capitals.

The stack's files are a copy, as an operator's clone is one: passwords, `.env` and archives of these
tests lie there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from census import PIPELINE, Served, model_fields, pipeline_text
from load import all_recorded_once, all_records_once, predicting, publishing
from spreading import TWO_TRAINERS, is_shared, survives_a_node
from tritonclient.utils import InferenceServerException

from penstock.contracts.connection import SCRAM
from penstock.contracts.errors import PenstockError
from penstock.contracts.topics import source_topic
from penstock.contracts.versions import version_name
from penstock.testing.compose import ROOT, SERVICES, ComposeUnderTest, clone_into, running_compose
from penstock.testing.site import SiteUnderTest
from penstock.testing.wait import until

pytestmark = pytest.mark.compose

PAGE = (ROOT / "docs" / "operations.md").read_text()
SECTIONS: dict[str, str] = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
FILE = re.compile(r"^```yaml\n# (?P<path>\S+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
IMAGES = os.environ.get("PENSTOCK_VERSION", "latest")
WITH_SITES = "docker-compose.yml:deploy/compose/sites.yaml"
WITH_RAY = "docker-compose.yml:deploy/compose/ray.yaml"


def commands(section: str) -> list[str]:
    """The section's blocks that are to be run."""
    return re.findall(r"^```bash\n(.*?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL)


@dataclass
class Operator:
    """Someone with a clone, a stack, a model that it serves, and the page."""

    clone: Path
    stack: ComposeUnderTest
    served: Served
    followed: set[str] = field(default_factory=set)

    @property
    def version(self) -> str:
        return version_name(PIPELINE, self.served.version.digest)

    def follow(self, section: str, blocks: slice = slice(None), **names: object) -> str:
        """What the section's commands print. Fails with it where one of them does."""
        script = "set -e\n" + "".join(commands(section)[blocks])
        for word, name in names.items():
            assert re.search(rf"\b{word}\b", script), f"{section} does not say {word}"
            script = re.sub(rf"\b{word}\b", str(name), script)
        self.followed.add(section)
        return self.run("bash", "-c", script)

    def run(self, *command: str, fails: bool = False) -> str:
        done = subprocess.run(
            command,
            cwd=self.clone,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    @property
    def environment(self) -> dict[str, str]:
        return self.stack.environment | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PENSTOCK_HOME": str(self.stack.home),
            "PENSTOCK_ENDPOINT": self.stack.endpoint,
            "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": self.stack.bootstrap_servers,
            "PENSTOCK_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "PENSTOCK_KAFKA__SASL_MECHANISM": SCRAM,
            "PENSTOCK_KAFKA__SASL_USERNAME": "admin",
            "PENSTOCK_KAFKA__SASL_PASSWORD_FILE": "deploy/compose/secrets/kafka_admin_password",
            "COLUMNS": "200",
        }

    def password(self, name: str) -> str:
        return (self.clone / "deploy" / "compose" / "secrets" / f"{name}_password").read_text()

    def trusted(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.stack.compose("exec", "-T", "model-registry", "cat", "keys/trust.json")
        )
        return found

    def present_key(self, role: str) -> str:
        (found,) = [
            name for name, key in self.trusted().items() if key["role"] == role and key["retired_at"] is None
        ]
        return found

    def traced(self, prediction: str) -> Any:
        """The prediction's lineage, once it is recorded."""

        def look() -> Any:
            try:
                return self.served.client.lineage.trace(prediction)
            except PenstockError:
                return None

        return until(look, within=30, what=f"{prediction} is recorded")


@pytest.fixture(scope="module")
def operator(compose: ComposeUnderTest, served_by_compose: Served) -> Operator:
    compose.environment.pop("PENSTOCK_VERSION", None)  # from here on .env says it
    (compose.root / ".env").open("a").write(f"PENSTOCK_VERSION={IMAGES}\n")
    return Operator(compose.root, compose, served_by_compose)


def test_starting_stopping_and_looking(operator: Operator) -> None:
    said = operator.follow("Start, stop, look")
    for service in SERVICES:
        assert re.search(rf"{service}\s.*healthy", said), f"docker compose ps shows {service}"
        assert re.search(rf"{service.replace('-', '_')}\s+ready", said), f"penstock status shows {service}"
    assert '"service": "inference"' in said
    operator.served.journey.until_served(PIPELINE, operator.served.version.digest)


def test_a_prediction_is_followed_to_its_event(operator: Operator) -> None:
    """Before anything replaces a container: its log goes with it."""
    event = operator.served.events[5]
    prediction = operator.served.client.predictions.by_entity(PIPELINE, str(event["person_id"])).prediction
    found = operator.traced(prediction)
    (origin,) = found.events
    said = operator.follow(
        "Follow one prediction",
        PREDICTION=prediction,
        VERSION=operator.version,
        PIPELINE=PIPELINE,
        TOPIC=source_topic("events", PIPELINE, "people"),
        PARTITION=origin.partition,
        OFFSET=origin.offset,
        RUN=found.run.run_id,
    )
    assert f"prediction {prediction}" in said
    assert f"version {operator.version}" in said
    assert re.search(r"^gates +yes", said, re.MULTILINE)
    assert "<svg" in (operator.clone / "report.html").read_text()
    assert "out_of_range" in said
    assert f'"event_id": "{event["event_id"]}"' in said or f'"event_id":"{event["event_id"]}"' in said, (
        "the event itself"
    )
    for service in ("trainer", "model_registry"):
        assert re.search(rf'{found.run.run_id}.*"service": "{service}"', said), (
            f"what {service} logged about the run"
        )


def test_a_rotated_password_is_the_only_one(operator: Operator) -> None:
    names = ("postgres", "postgres_trainer", "redis_feature_store")
    before = {name: operator.password(name) for name in names}
    operator.follow("Rotate a password")
    assert not [name for name in names if operator.password(name) == before[name]]
    operator.stack.ready()

    def postgres(user: str, password: str) -> list[str]:
        # By its name on the network: on the loopback, the image asks for none.
        command = (
            f"psql --host postgres --username {user} --dbname trainer --tuples-only --command 'SELECT 1'"
        )
        return [
            "docker",
            "compose",
            "exec",
            "-T",
            "-e",
            f"PGPASSWORD={password}",
            "postgres",
            "sh",
            "-c",
            command,
        ]

    for user, name in (("penstock", "postgres"), ("trainer", "postgres_trainer")):
        assert "authentication failed" in operator.run(*postgres(user, before[name]), fails=True)
        assert operator.run(*postgres(user, operator.password(name))).strip() == "1"
    redis = ("docker", "compose", "exec", "-T", "redis", "redis-cli", "--no-auth-warning")
    redis = (*redis, "--user", "feature_store", "-a")
    assert "NOAUTH" in operator.run(*redis, before["redis_feature_store"], "ping")
    assert "PONG" in operator.run(*redis, operator.password("redis_feature_store"), "ping")
    person = str(operator.served.events[3]["person_id"])
    assert (
        operator.served.client.predictions.by_entity(PIPELINE, person).digest
        == operator.served.version.digest
    )


def test_a_rotated_key_signs_and_the_old_one_still_verifies(operator: Operator) -> None:
    first = {role: operator.present_key(role) for role in ("registry", "audit")}
    operator.follow("Rotate a signing key", slice(1))
    second = {role: operator.present_key(role) for role in ("registry", "audit")}
    assert all(first[role] != second[role] for role in first)
    assert operator.served.client.audits.verify(operator.served.version.digest).valid
    # The second one has signed nothing, so that what is served stays when it leaves the store.
    operator.follow("Rotate a signing key", slice(1))
    operator.follow("Rotate a signing key", slice(1, 2), KEYID=second["registry"])
    assert set(operator.trusted()) == {
        *first.values(),
        second["audit"],
        operator.present_key("registry"),
        operator.present_key("audit"),
    }
    operator.served.journey.until_served(PIPELINE, operator.served.version.digest)
    assert operator.served.client.audits.verify(operator.served.version.digest).valid


@pytest.mark.slow
def test_an_upgrade_loses_nothing_and_predictions_go_on(operator: Operator) -> None:
    for service in SERVICES:
        operator.run("docker", "tag", f"penstock/{service}:{IMAGES}", f"penstock/{service}:upgrade-test")
    name = "upgraded"
    operator.served.client.pipelines.apply(pipeline_text(name, gates="[]", epochs=2), by="test")
    try:
        with publishing(operator.served, name) as published, predicting(operator.served) as load:
            load.grows()
            published.grows()
            said = operator.follow("Upgrade", RELEASE="upgrade-test")
            load.grows()
            published.grows()
        for service in SERVICES:
            assert re.search(rf"^{service} penstock/{service}:upgrade-test$", said, re.MULTILINE)
        assert re.search(r"^ 0001$", said, re.MULTILINE), "the trainer's revision"
        assert load.failed == {}
        all_records_once(operator.served, name, published)
        all_recorded_once(operator.served, load)
    finally:
        environment = operator.clone / ".env"
        environment.write_text(environment.read_text().replace("PENSTOCK_VERSION=upgrade-test\n", ""))
        operator.run("docker", "compose", "up", "-d", "--wait", "--no-build")
        for service in SERVICES:
            operator.run("docker", "image", "rm", f"penstock/{service}:upgrade-test")


def test_memory_is_what_was_asked_for(operator: Operator) -> None:
    operator.follow("More of it")
    assert operator.stack.inspect("trainer")["HostConfig"]["Memory"] == 6 << 30
    operator.stack.ready()


@pytest.mark.slow  # four minutes, one of which Ray waits for a dead node
def test_a_run_on_ray_survives_a_node_and_two_trainers_share_it_with_a_tuner(operator: Operator) -> None:
    operator.follow("Spread training over machines", slice(1))
    (operator.clone / "two-trainers.yaml").write_text(TWO_TRAINERS)
    files = ":".join(str(operator.clone / name) for name in f"{WITH_RAY}:two-trainers.yaml".split(":"))
    stack = ComposeUnderTest({**operator.environment, "COMPOSE_FILE": files}, operator.stack.home, 0)
    until(
        lambda: "0.0/4.0 CPU" in stack.execute("ray-head", "ray", "status"),
        within=60,
        what="both nodes are there",
    )
    try:
        survives_a_node(operator.served, stack)
        stack.compose("up", "--detach", "--wait", "--no-build")
        stack.ready()
        is_shared(operator.served, stack)
    finally:
        operator.follow("Spread training over machines", slice(1, None))
    operator.stack.ready()


def test_a_site_is_let_in_and_serves_what_the_cloud_does(operator: Operator, tmp_path: Path) -> None:
    address = f"127.0.0.1:{operator.environment['PENSTOCK_SITES_PORT']}"
    (operator.clone / ".env").open("a").write(f"PENSTOCK_SITES_ADDRESS={address}\n")
    said = operator.follow("Let sites in")
    token = re.search(r"penstock_edge_gateway\.site join (\S+)", said)
    assert f"plant-1 joins {address}" in said
    assert token, said

    with SiteUnderTest(tmp_path / "plant-1") as site:
        site.join(token[1])
        site.start()

        serves(site.endpoint)
        assert "plant-1: enrolled" in operator.run("penstock", "sites", "show", "plant-1")


def serves(endpoint: str) -> None:
    def ready() -> bool:
        with triton.InferenceServerClient(endpoint) as client:
            return bool(client.is_model_ready(PIPELINE))

    until(ready, despite=InferenceServerException, what=f"the site at {endpoint} serves")


REACHED = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def reaches(place):
    try:
        socket.create_connection(tuple(place), 3).close()
    except OSError:
        return False
    return True

places = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(places)) as pool:
    print(json.dumps([place for place, found in zip(places, pool.map(reaches, places)) if found]))
"""


def test_sites_in_containers_serve_and_reach_nothing_but_the_door_for_sites(operator: Operator) -> None:
    said = operator.follow("Run sites as containers")
    for number in (1, 2):
        assert re.search(rf"branch-{number}\s+enrolled", said)
        serves(f"127.0.0.1:{operator.environment[f'PENSTOCK_BRANCH_{number}_PORT']}")
    sites = ("env", f"COMPOSE_FILE={WITH_SITES}", "docker", "compose")
    container = operator.run(*sites, "ps", "--quiet", "branch-1").strip()
    assert "penstock-site-" not in operator.run("docker", "inspect", container), "a token"
    addresses = {
        name: [
            one["IPAddress"] for one in operator.stack.inspect(name)["NetworkSettings"]["Networks"].values()
        ]
        for name in ("envoy", "kafka", "postgres")
    }
    places = [["line", 9443], ["line", 9080], ["envoy", 9443], ["kafka", 9092]]
    places += [[address, port] for address in addresses["envoy"] for port in (9080, 9198, 9443)]
    places += [[address, port] for address in addresses["kafka"] for port in (9092, 19092)]
    places += [[address, 5432] for address in addresses["postgres"]]
    reached = operator.run(*sites, "exec", "-T", "branch-1", "python", "-c", REACHED, json.dumps(places))
    assert json.loads(reached) == [["line", 9443]]


def test_a_dead_letter_is_put_aside_and_given_back(operator: Operator) -> None:
    publish, replay = commands("Drain dead letters")
    (of_the_page,) = re.findall(r"\S+\.dlq/\S+", replay)
    box = of_the_page.rpartition("/")[0]

    def letters() -> set[str]:
        listed = operator.run("penstock", "dead-letters", "list")
        return set(re.findall(rf"^({re.escape(box)}/\d+) ", listed, re.MULTILINE))

    before = letters()
    operator.run("bash", "-c", publish)
    until(lambda: letters() - before, within=30, what="the dead letter is listed")
    (letter,) = letters() - before
    said = operator.follow("Drain dead letters", slice(1, None), **{of_the_page: letter})
    assert "is on audits.v1 again" in said
    until(
        lambda: letter not in letters() and len(letters() - before) == 1,
        within=30,
        what="what fails again is a new letter, and the old one has gone",
    )
    operator.stack.ready()


BROKER = """
services:
  broker:
    image: ${KAFKA_IMAGE:-apache/kafka:4.3.1}
    networks: [publishing]
    environment:
      CLUSTER_ID: ahrOPx5VSH-jyCUOj3DKLA
      KAFKA_NODE_ID: 1
      KAFKA_PROCESS_ROLES: broker,controller
      KAFKA_CONTROLLER_QUORUM_VOTERS: 1@broker:9093
      KAFKA_CONTROLLER_LISTENER_NAMES: CONTROLLER
      KAFKA_LISTENERS: CLIENTS://:9092,CONTROLLER://:9093
      KAFKA_ADVERTISED_LISTENERS: CLIENTS://broker:9092
      KAFKA_LISTENER_SECURITY_PROTOCOL_MAP: CLIENTS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
      KAFKA_INTER_BROKER_LISTENER_NAME: CLIENTS
      KAFKA_SASL_MECHANISM_INTER_BROKER_PROTOCOL: PLAIN
      KAFKA_SASL_ENABLED_MECHANISMS: PLAIN
      KAFKA_LISTENER_NAME_CLIENTS_PLAIN_SASL_JAAS_CONFIG: >-
        org.apache.kafka.common.security.plain.PlainLoginModule required
        username="penstock" password="a password of its own" user_penstock="a password of its own";
      KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR: 1
      KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR: 1
      KAFKA_TRANSACTION_STATE_LOG_MIN_ISR: 1
  ingest:
    environment:
      PENSTOCK_KAFKA__BOOTSTRAP_SERVERS: broker:9092
      PENSTOCK_KAFKA__REPLICATION: "1"
      PENSTOCK_KAFKA__SECURITY_PROTOCOL: SASL_PLAINTEXT
      PENSTOCK_KAFKA__SASL_MECHANISM: PLAIN
"""


@pytest.mark.slow
def test_a_kafka_elsewhere_is_reached_with_a_password_from_a_file(engine: None, tmp_path: Path) -> None:
    """The page's overlay as it stands, but for the address, TLS and the mechanism, against a broker
    that asks for a password.
    """
    clone = clone_into(tmp_path)
    (overlay,) = FILE.finditer(SECTIONS["More of it"])
    (clone / overlay["path"]).write_text(overlay["text"])
    (clone / "deploy" / "compose" / "broker.yaml").write_text(BROKER)
    secrets = clone / "deploy" / "compose" / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "kafka_password").write_text("a password of its own\n")
    (secrets / "kafka_ca").touch()
    with running_compose(
        Path(overlay["path"]).stem, "broker", services=["broker", "ingest"], root=clone
    ) as stack:
        assert set(stack.compose("ps", "--services").split()) == {"broker", "ingest"}, (
            "the stack's own Kafka stays away"
        )
        assert '"arrived": "kafka"' in stack.log("ingest")
        assert not [
            variable for variable in stack.inspect("ingest")["Config"]["Env"] if "a password" in variable
        ]
        (secrets / "kafka_password").write_text("another one")
        stack.restart("ingest")
        until(
            lambda: "authentication" in stack.log("ingest").lower(),
            within=60,
            what="the broker turns the service away",
        )


@pytest.mark.slow
def test_what_was_backed_up_is_there_after_a_restore(operator: Operator) -> None:
    client, journey = operator.served.client, operator.served.journey
    event = operator.served.events[7]
    fields = model_fields(operator.served, event)
    before = client.predictions.by_fields(PIPELINE, fields)
    lineage = operator.traced(before.prediction)
    report = client.audits.report(operator.served.version.digest)
    counts = client.events.counts(PIPELINE, "people")
    generations = {one.pipeline: one.generation for one in client.predictions.serving().pipelines}
    name = "backed-up"
    client.pipelines.apply(pipeline_text(name, gates="[]", epochs=2), by="test")

    with publishing(operator.served, name) as published, predicting(operator.served) as load:
        published.grows()
        load.grows()
        answered = len(load.answered)
        said = operator.follow("Back up", DIRECTORY="backup")
        assert len(load.answered) > answered
        published.grows()
    assert load.failed == {}, "predictions go on while it is made"
    assert re.search(r"11 volumes|12 volumes", said)
    all_records_once(operator.served, name, published)
    all_recorded_once(operator.served, load)
    backup = operator.clone / "backup"
    assert [path for path in (backup, *backup.rglob("*")) if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    assert "is not empty" in operator.run("deploy/compose/backup.sh", "backup", fails=True)

    assert "has data here" in operator.run("deploy/compose/restore.sh", "backup", fails=True)
    operator.run("docker", "compose", "down", "--volumes")
    assert "holds no whole backup" in operator.run("deploy/compose/restore.sh", "deploy", fails=True)
    spoiled = operator.clone / "spoiled"
    shutil.copytree(backup, spoiled)
    with (spoiled / "trust.tar.gz").open("ab") as file:
        file.write(b"more")
    assert "trust.tar.gz: FAILED" in operator.run("deploy/compose/restore.sh", "spoiled", fails=True)
    secrets = operator.clone / "deploy" / "compose" / "secrets"
    shutil.rmtree(secrets)
    operator.run("deploy/compose/secrets.sh")
    assert "another than the backup's" in operator.run("deploy/compose/restore.sh", "backup", fails=True)
    shutil.rmtree(secrets)  # as on a new machine
    assert (
        operator.run(
            "docker",
            "volume",
            "ls",
            "-q",
            "--filter",
            f"name={operator.environment['COMPOSE_PROJECT_NAME']}_",
        )
        == ""
    )

    operator.follow("Restore", DIRECTORY="backup")
    operator.stack.ready()
    after = client.predictions.by_fields(PIPELINE, fields)
    assert (after.probabilities, after.decision, after.digest) == (
        before.probabilities,
        before.decision,
        before.digest,
    )
    again = operator.traced(before.prediction)
    assert (again.prediction, again.run.run_id, again.model) == (
        lineage.prediction,
        lineage.run.run_id,
        lineage.model,
    )
    by_entity = operator.traced(client.predictions.by_entity(PIPELINE, str(event["person_id"])).prediction)
    assert [record.id for record in by_entity.events] == [event["event_id"]]
    assert client.audits.verify(operator.served.version.digest).valid
    assert client.audits.report(operator.served.version.digest) == report

    assert client.events.counts(PIPELINE, "people") == counts
    journey.publish(PIPELINE, "people", operator.served.events[:100])
    now = client.events.counts(PIPELINE, "people")
    assert (now.records, now.duplicates) == (counts.records, counts.duplicates + 100)
    client.pipelines.apply(pipeline_text(epochs=2, compare="none"), by="test")
    version = journey.train(PIPELINE)
    journey.until_served(PIPELINE, version.digest)
    assert {one.pipeline: one.generation for one in client.predictions.serving().pipelines}[
        PIPELINE
    ] == generations[PIPELINE] + 1


def test_every_section_with_commands_is_followed() -> None:
    tests = Path(__file__).read_text()
    with_commands = {section for section in SECTIONS if commands(section)}
    assert with_commands == set(re.findall(r'follow\(\s*"([^"]+)"', tests))
