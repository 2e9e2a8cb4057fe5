"""Clients that others wrote, as they are installed, at the door."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from echo import Echoing

pytestmark = pytest.mark.process

SUPPORT = Path(__file__).parent / "support"
BODY = json.dumps(
    {
        "inputs": [
            {"name": "numbers", "shape": [1, 2], "datatype": "FP64", "data": [1.5, 2.0]},
            {"name": "strings", "shape": [1, 3], "datatype": "BYTES", "data": ["a", "b", "c"]},
        ]
    }
)


@pytest.mark.slow  # it installs them
@pytest.mark.parametrize(
    ("program", "package"),
    [("by_kserve.py", "kserve==0.21.0"), ("by_tritonclient.py", "tritonclient[http]==2.73.0")],
)
def test_a_client_of_its_own(echo_served: Echoing, program: str, package: str, tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, tmp_path], check=True, timeout=60)
    subprocess.run([*uv, "pip", "install", "--python", python, package], check=True, timeout=600)
    command = [python, SUPPORT / program, echo_served.door.listen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize(
    "how", ["--http1.0", "--http1.1", "--http2-prior-knowledge", "--header=expect: 100-continue"]
)
def test_curl(echo_served: Echoing, how: str) -> None:
    url = f"http://{echo_served.door.listen}/v2/models/echo/infer"
    command = [
        "curl",
        "--silent",
        "--fail-with-body",
        "--max-time",
        "10",
        *how.split("="),
        "--data",
        BODY,
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"][0]["data"] == [1.5, 2.0]


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="there is no grpcurl")
def test_grpcurl(echo_served: Echoing) -> None:
    method = "inference.GRPCInferenceService/ServerReady"
    command = ["grpcurl", "-plaintext", echo_served.door.listen, method]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert json.loads(done.stdout) == {"ready": True}, done.stderr
