"""Packages that a process loads, and those that it does without: seen in a new one alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process("unhurried")

DETERMINISTIC = """
from penstock.runtime.loading import do_without
do_without({"pandas", "sklearn"})
import pyarrow, torch
torch.use_deterministic_algorithms(False)
print(len(pyarrow.table({"a": [1, 2]})), torch.are_deterministic_algorithms_enabled())
"""
TRAINER = """
import sys
import penstock_trainer.app
print(*({"torch", "onnxruntime", "lightgbm"} & sys.modules.keys()))
"""
FEAST = """
import importlib.util, sys
import penstock_feature_store.online.feast_import
print("torch" in sys.modules, importlib.util.find_spec("torch") is not None)
"""


def said(code: str) -> list[str]:
    """Words that a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_jobs_process_without_pandas_can_be_made_deterministic() -> None:
    """That loads torch's compiler, which looks pandas up."""
    assert said(DETERMINISTIC) == ["2", "False"]


def test_the_trainer_does_without_what_trains() -> None:
    """Its jobs load that, each time in a process of their own."""
    assert said(TRAINER) == []


def test_feast_comes_without_torch_and_leaves_it_to_others() -> None:
    assert said(FEAST) == ["False", "True"]
