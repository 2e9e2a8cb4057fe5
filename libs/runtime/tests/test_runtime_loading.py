"""Imports at a start: nothing that no service uses, and no search for garbage."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.runtime.loading import loading

LOADED = """
import sys
from penstock.runtime.loading import UNUSED, loading
with loading():
    import penstock.runtime.lifecycle
print(*(UNUSED & sys.modules.keys()))
"""


def test_a_service_loads_nothing_that_none_uses() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_was_absent_is_there_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "optional_package.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with loading({"optional_package"}):
        assert not gc.isenabled()
        with pytest.raises(ModuleNotFoundError, match="no service uses optional_package"):
            importlib.import_module("optional_package")
    assert gc.isenabled()
    importlib.import_module("optional_package")
