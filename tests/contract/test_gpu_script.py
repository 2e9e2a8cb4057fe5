"""benchmarks/gpu.py, which no machine without a GPU needs and each must keep running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process("unhurried")

ROOT = Path(__file__).resolve().parents[2]


def test_the_gpus_script_runs_where_none_is() -> None:
    """Tiny, and its figures say nothing: a machine with a GPU is for measuring, not for mending it."""
    script = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--json"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    told = subprocess.run([*script, "--cpu"], env=hidden, check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in told.splitlines()]
    assert {row["network"] for row in rows} == {"mlp", "ft_transformer", "text_cnn"}
    assert {row["what"] for row in rows} == {
        "step, fp32",
        "step, bf16",
        "step, rows stay in memory",
        "answers",
    }
    assert all(row["ours"] > 0 and row["by hand"] > 0 for row in rows)


def test_it_measures_no_gpu_where_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gpu  # in this process: another one would take seconds to load torch

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--json"])
    with pytest.raises(SystemExit, match=r"the trainer has no GPU.*\. With `--cpu` it shows that it runs"):
        gpu.main()
