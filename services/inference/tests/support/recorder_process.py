"""A recorder on its own, to be killed: `recorder_process.py FOLDER BOOTSTRAP PREFIX`."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from penstock.contracts.topics import Topic
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings
from penstock.serving.model import Layout
from penstock_inference.record.publisher import Publisher
from penstock_inference.record.recorder import Recorder

LAYOUT = Layout("sha256:" + "a" * 64, 3, ("age", "income"), ("purpose", "owns"), frozenset({"owns"}))


def topic(name: str) -> Topic:
    return Topic(name, owner="inference", consumers=(), key="", about="", messages=())


def main(folder: Path, bootstrap: str, prefix: str) -> None:
    kafka = KafkaSettings(bootstrap_servers=bootstrap, topic_prefix=prefix)
    ensure_topics(kafka, [topic("deployments.v1")])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    recorder = Recorder(
        folder,
        lambda: Publisher(kafka, "0", folder / "position.json"),
        layouts=lambda pipeline, _: LAYOUT if pipeline == "credit-risk" else None,
        ensure_topic=lambda pipeline: ensure_topics(kafka, [topic(f"{pipeline}.predictions.v1")]),
        tidy=lambda tail, position: None,
    )
    recorder.run(stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
