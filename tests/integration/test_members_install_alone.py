"""Each member declares all that it imports: installed alone, with the lock's versions, every module
of it imports, but for those of an extra, which import with it.

The client stays thin, and so do the services whose images have a bound: what is heavy does not come
with them.
"""

import itertools
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.process("unhurried")

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = {
    tomllib.loads(path.read_text())["project"]["name"]: path.parent
    for path in ROOT.glob("*/*/pyproject.toml")
}
HEAVY = {"penstock-modelkit", "penstock-trainer", "penstock-tuner", "penstock-feature-store"}
"""They bring torch (4.5 GB) or Feast."""

TABLES = {"pyarrow", "pandas", "duckdb"}
LEARNING = {"torch", "feast", "ray", "mlflow-skinny", "onnxruntime", "scikit-learn", "scipy"}
S3 = {"s3fs", "botocore"}
KAFKA_AND_SQL = {"confluent-kafka", "faststream", "kafka-python", "sqlalchemy", "psycopg"}
WITHOUT = {
    "penstock-measures": TABLES | LEARNING | S3,
    "penstock-serving": TABLES | LEARNING | S3,
    "penstock-client": TABLES | LEARNING | S3 | {"numpy", "sqlalchemy"},
    "penstock-ingest": TABLES | LEARNING | S3,
    "penstock-model-registry": TABLES | LEARNING | S3,
    "penstock-inference": TABLES | LEARNING | S3,
    "penstock-edge-gateway[hub]": TABLES | LEARNING | S3,
    "penstock-edge-gateway[site]": TABLES | LEARNING - {"onnxruntime"} | S3 | KAFKA_AND_SQL,
}

PARTS = {
    "penstock-runtime[platform]": (),
    "penstock-edge-gateway[hub]": ("penstock_edge_gateway.site",),
    "penstock-edge-gateway[site]": (
        "penstock_edge_gateway.hub",
        "penstock_edge_gateway.app",
        "penstock_edge_gateway.settings",
    ),
}
"""Members of which nobody installs less than one extra, and what imports with another extra only."""

COMMANDS = {"penstock-client": {"penstock": "Publish events, get audited models."}}

OF_AN_EXTRA = {
    "penstock-client[init]": [
        "penstock.client.guess.evidence",
        "penstock.client.guess.proxies",
        "penstock.client.prospect",
    ],
    "penstock-tuner[ray]": ["penstock_tuner.pool.ray", "penstock.runtime.ray_cluster"],
    "penstock-trainer[ray]": ["penstock_trainer.workers.ray"],
}

IMPORT_ALL = """
import gc, importlib, pkgutil, sys
gc.disable()
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if module.name.endswith("__main__") or ".migrations." in module.name:
        continue
    if f"{module.name}.".startswith(tuple(f"{name}." for name in sys.argv[2:])):
        continue
    importlib.import_module(module.name)
"""


@dataclass(frozen=True)
class Alone:
    """Makes one environment after the other, each in the place of the last: bytecode is compiled
    once for all.
    """

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "environment" / "bin" / "python"

    def install(self, name: str) -> None:
        """A new environment with the member, an extra of it too, the members that it needs, and what
        they declare, as pinned.
        """
        member, bracket, extra = name.partition("[")
        self.uv("venv", "--clear", "--python", sys.executable, self.python.parents[1])
        asked, *needed = (self.wheel(one) for one in closure(member, extra.removesuffix("]")))
        pinned = ["--constraint", ROOT / "requirements.lock"]
        self.uv("pip", "install", "--python", self.python, *pinned, f"{asked}{bracket}{extra}", *needed)

    def wheel(self, name: str) -> Path:
        found = list(self.folder.glob(f"{name.replace('-', '_')}-*.whl"))
        if not found:
            how = ["--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", self.folder]
            self.uv("build", *how, MEMBERS[name])
            return self.wheel(name)
        return found[0]

    def uv(self, *arguments: str | Path) -> None:
        subprocess.run([sys.executable, "-m", "uv", "--quiet", *arguments], check=True, timeout=600)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        bytecode = {"PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        return subprocess.run(command, env=os.environ | bytecode, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    return Alone(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ())
        for name in sorted({*MEMBERS, *PARTS} - {name.partition("[")[0] for name in PARTS})
    ],
)
def test_a_member_installs_alone(alone: Alone, name: str) -> None:
    alone.install(name)
    member, left_out = name.partition("[")[0], [*itertools.chain(*OF_AN_EXTRA.values()), *PARTS.get(name, ())]
    for package in packages(MEMBERS[member]):
        done = alone.run(alone.python, "-c", IMPORT_ALL, package, *left_out)
        assert done.returncode == 0, done.stderr
    for command, says in COMMANDS.get(name, {}).items():
        assert says in alone.run(alone.python.parent / command, "--help").stdout
    listed = alone.run(sys.executable, "-m", "uv", "pip", "list", "--python", alone.python)
    installed = {line.split()[0] for line in listed.stdout.splitlines()[2:]}
    assert member in installed
    assert not installed & WITHOUT.get(name, set())


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_AN_EXTRA)
def test_a_module_of_an_extra_imports_with_it(alone: Alone, name: str) -> None:
    alone.install(name)
    done = alone.run(alone.python, "-c", f"import {', '.join(OF_AN_EXTRA[name])}")
    assert done.returncode == 0, done.stderr


def test_artifacts_in_s3_need_the_extra_and_nothing_else(alone: Alone) -> None:
    opens = "from penstock.runtime.artifacts import Artifacts; Artifacts('s3://bucket/prefix').uri('key')"
    alone.install("penstock-model-registry[s3]")
    done = alone.run(alone.python, "-c", opens)
    assert done.returncode == 0, done.stderr
    alone.install("penstock-runtime")
    done = alone.run(alone.python, "-c", opens)
    assert "PENSTOCK_ARTIFACTS: artifacts in S3 need s3fs. pip install 'penstock-runtime[s3]'" in done.stderr


def closure(name: str, extra: str = "") -> list[str]:
    """The member and every member that it needs, with an extra of it too."""
    found = [name]
    for member in found:
        project = tomllib.loads((MEMBERS[member] / "pyproject.toml").read_text())["project"]
        optional = project.get("optional-dependencies", {}).get(extra, []) if member == name else []
        declared = [line.partition("[")[0] for line in (*project["dependencies"], *optional)]
        found += [needed for needed in declared if needed in MEMBERS and needed not in found]
    return found


def packages(member: Path) -> list[str]:
    included: list[str] = tomllib.loads((member / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]["only-include"]
    return [path.replace("/", ".") for path in included if path != "penstock"]
