"""Each member declares all that it imports: installed alone, with the lock's versions, every module
of it imports.

The client stays thin, and so do the services whose images have a bound: what is heavy does not come
with them.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = {
    tomllib.loads(path.read_text())["project"]["name"]: path.parent
    for path in ROOT.glob("*/*/pyproject.toml")
}
HEAVY = {"penstock-modelkit", "penstock-trainer", "penstock-feature-store"}
"""They bring torch (4.5 GB) or Feast."""

TABLES = {"pyarrow", "pandas", "duckdb"}
LEARNING = {"torch", "feast", "ray", "mlflow-skinny", "onnxruntime", "scikit-learn", "scipy"}
S3 = {"s3fs", "botocore"}
WITHOUT = {
    "penstock-measures": TABLES | LEARNING | S3,
    "penstock-client": TABLES | LEARNING | S3 | {"numpy", "sqlalchemy"},
    "penstock-ingest": TABLES | LEARNING | S3,
    "penstock-model-registry": TABLES | LEARNING | S3,
    "penstock-inference": TABLES | LEARNING | S3,
}

IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__") and ".migrations." not in module.name:
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in sorted(MEMBERS)]
)
def test_a_member_installs_alone(name: str, tmp_path: Path) -> None:
    python = install(tmp_path, name)
    for package in packages(MEMBERS[name]):
        done = subprocess.run(
            [python, "-c", IMPORT_ALL, package], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    listed = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "list", "--python", python],
        capture_output=True,
        text=True,
        check=True,
    )
    installed = {line.split()[0] for line in listed.stdout.splitlines()[2:]}
    assert name in installed
    assert not installed & WITHOUT.get(name, set())


def test_the_client_has_its_command(tmp_path: Path) -> None:
    python = install(tmp_path, "penstock-client")
    help_ = subprocess.run([python.parent / "penstock", "--help"], capture_output=True, text=True, check=True)
    assert "Publish events, get audited models." in help_.stdout


def test_artifacts_in_s3_need_the_extra_and_nothing_else(tmp_path: Path) -> None:
    opens = "from penstock.runtime.artifacts import Artifacts; Artifacts('s3://bucket/prefix').uri('key')"
    (tmp_path / "with").mkdir()
    done = subprocess.run(
        [install(tmp_path / "with", "penstock-model-registry", "[s3]"), "-c", opens],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "without").mkdir()
    done = subprocess.run(
        [install(tmp_path / "without", "penstock-runtime"), "-c", opens], capture_output=True, text=True
    )
    assert "PENSTOCK_ARTIFACTS: artifacts in S3 need s3fs. pip install 'penstock-runtime[s3]'" in done.stderr


def install(folder: Path, name: str, extra: str = "") -> Path:
    """A new environment with the member, the members that it needs, and what they declare, as
    pinned. Returns its python.
    """
    environment = folder / "environment"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    python = environment / "bin" / "python"
    members = [argument for member in closure(name) for argument in ("--editable", str(MEMBERS[member]))]
    members[1] += extra
    subprocess.run(
        [
            *uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            python,
            "--constraint",
            ROOT / "requirements.lock",
            *members,
        ],
        check=True,
        timeout=600,
    )
    return python


def closure(name: str) -> list[str]:
    """The member and every member that it needs."""
    found = [name]
    for member in found:
        declared = tomllib.loads((MEMBERS[member] / "pyproject.toml").read_text())["project"]["dependencies"]
        found += [needed for needed in declared if needed in MEMBERS and needed not in found]
    return found


def packages(member: Path) -> list[str]:
    included: list[str] = tomllib.loads((member / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]["only-include"]
    return [path.replace("/", ".") for path in included if path != "penstock"]
