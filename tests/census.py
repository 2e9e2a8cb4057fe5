"""One pipeline on real census rows, small enough for every run, and what tests ask of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tritonclient.grpc as triton
from ruamel.yaml import YAML

from penstock.client import Penstock
from penstock.contracts.pipeline import Pipeline
from penstock.inference.v1 import inference_pb2 as inference
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.testing.journey import Journey
from penstock.testing.stack import StackUnderTest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "adult-income"))

import asking  # noqa: E402  examples are programs, not a package; tests take these from here
from data import Event, people, spoiled  # noqa: E402

ROWS = 6_000
PIPELINE = "census"


def pipeline_text(
    name: str = PIPELINE,
    *,
    gates: str = "[{metric: auroc, at_least: 0.80, on_fail: block}]",
    epochs: int = 4,
    compare: Literal["champion", "none"] = "champion",
) -> str:
    """The adult-income example under another name, with other gates and fewer epochs."""
    text = (ROOT / "examples" / "adult-income" / "pipeline.yaml").read_text()
    start, promotion, end = (text.index(f"{key}:") for key in ("  gates", "promotion", "serving"))
    unjudged = "without_gates: allowed, " if gates == "[]" else ""
    promoted = text[promotion:end] if compare == "champion" else "promotion: {compare: none}\n"
    promoted = promoted.replace("{", "{" + unjudged, 1)
    text = text[:start] + f"  gates: {gates}\n\n" + promoted + text[end:]
    small = {
        "epochs: 15": f"epochs: {epochs}",
        "{seed: 7}": "{seed: 7, baselines: false}",
        "batch_size: 256": "batch_size: 64",
        "learning_rate: 1e-3": "learning_rate: 3e-3",
    }
    for wide in small:
        assert wide in text
        text = text.replace(wide, small[wide])
    return text.replace("pipeline: adult-income", f"pipeline: {name}")


AT_SITES = "  fallback: {when: missing}\n  label_below: 0.5\n"  # of `edge`, which is the last section

TUNER = """
# Three trials, on one split.
tuner:
  budget: {trials: 3}
  evaluate: {folds: 1}
  space: {model: {mlp: {hidden: [[16]], dropout: {low: 0, high: 0.1}}}}
"""


def poor_text(name: str) -> str:
    """A pipeline whose own values learn next to nothing, and a space of better ones."""
    text = pipeline_text(name, compare="none", gates="[{metric: auroc, at_least: 0.6, on_fail: block}]")
    model = re.search(r"^model: .*$", text, re.MULTILINE)
    assert model is not None
    poor = "model: {type: mlp, hidden: [2], dropout: 0.9}  # a first guess"
    return text.replace(model[0], poor) + TUNER


def declared(name: str, target: dict[str, Any], **sections: Any) -> str:
    """The session's pipeline with another target, without groups, gates, family and steps."""
    file = YAML(typ="safe").load(pipeline_text(name, compare="none"))
    del file["model"], file["trainer"]
    file |= {"targets": {"said": target}, "audit": {}, **sections}
    return json.dumps(file)


@dataclass(frozen=True)
class Served:
    """What the session's pipeline holds."""

    journey: Journey
    events: list[Event]
    expected: dict[str, int]
    version: registry.Version

    @property
    def client(self) -> Penstock:
        return self.journey.client


def serve(client: Penstock) -> Served:
    """Publishes, trains and audits the pipeline, until it is promoted and served."""
    journey = Journey(client)
    events = people()[:ROWS]
    bad, expected = spoiled(events)
    client.pipelines.apply(pipeline_text() + AT_SITES, by="test")
    journey.publish(PIPELINE, "people", [*events, *bad])
    version = journey.train(PIPELINE)
    assert version.state == registry.Version.STATE_PROMOTED, version.because
    journey.until_served(PIPELINE, version.digest)
    return Served(journey, events, expected, version)


@dataclass(frozen=True)
class Succession:
    """A pipeline of which two versions were promoted, one after the other."""

    name: str
    first: registry.Version
    second: registry.Version


def succession(served: Served, name: str = "rolling") -> Succession:
    """Trains both, each served before the next step."""
    served.client.pipelines.apply(pipeline_text(name, epochs=1, gates="[]", compare="none"), by="test")
    served.journey.publish(name, "people", served.events[:2000])
    first = served.journey.train(name)
    served.journey.until_served(name, first.digest)
    second = served.journey.train(name, {"trainer.epochs": 2})
    served.journey.until_served(name, second.digest)
    return Succession(name, first, second)


def deployment(served: Served, pipeline: str) -> inference.Serving:
    """What inference serves of it."""
    (found,) = (one for one in served.client.predictions.serving().pipelines if one.pipeline == pipeline)
    return found


def run_penstock(stack: StackUnderTest, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line against the stack under test."""
    environment = {
        "PENSTOCK_HOME": str(stack.home),
        "PATH": "/usr/bin:/bin",
        "COLUMNS": "200",
        "HOME": str(stack.home),
    }
    command = [Path(sys.executable).parent / "penstock", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def model_fields(served: Served, event: dict[str, object]) -> dict[str, object]:
    return asking.model_fields(spec(served), event)


def tensors(served: Served, events: list[dict[str, object]]) -> tuple[np.ndarray, np.ndarray]:
    """`numbers` FP64 [N, n] and `strings` BYTES [N, m], fields in the file's order."""
    return asking.tensors(spec(served), events)


def infer(served: Served, numbers: np.ndarray, strings: np.ndarray) -> np.ndarray:
    """Probabilities [N, 2] by a plain tritonclient through the door, 64 rows a call."""

    def ask(rows: slice) -> np.ndarray:
        inputs = asking.inputs(numbers[rows], strings[rows])
        found: np.ndarray = client.infer(PIPELINE, inputs).as_numpy("probabilities")
        return found

    with triton.InferenceServerClient(served.client.settings.endpoint) as client:
        return np.concatenate([ask(slice(at, at + 64)) for at in range(0, len(numbers), 64)])


def spec(served: Served) -> Pipeline:
    return served.client.pipelines.spec(PIPELINE)
