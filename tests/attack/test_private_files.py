"""Nobody else of this machine reads what the stack and its commands write."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from census import Served

from penstock.stack.stackfile import shared_memory
from penstock.testing.files import below
from penstock.testing.stack import StackUnderTest

pytestmark = pytest.mark.stack


def test_a_stack_s_files_are_its_user_s_alone(served: Served, stack: StackUnderTest) -> None:
    """From the first byte: the folder is closed, and each file in it too."""
    open_to_others = []
    for path in (stack.home, *below(stack.home)):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if mode & 0o077 and not stat.S_ISLNK(mode):
                open_to_others.append(path)
    assert open_to_others == []


def test_requests_on_their_way_to_a_model_are_the_stack_s_alone(
    served: Served, stack: StackUnderTest
) -> None:
    regions = list(Path("/dev/shm").glob(f"{shared_memory(stack.home)}*"))
    assert {stat.S_IMODE(region.stat().st_mode) for region in regions} == {0o600}


def test_a_report_is_its_reader_s_alone(served: Served, stack: StackUnderTest, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    penstock = Path(sys.executable).parent / "penstock"
    subprocess.run(
        [penstock, "report", served.version.digest, "--to", str(report)],
        env=os.environ | {"PENSTOCK_HOME": str(stack.home)},
        check=True,
        capture_output=True,
    )
    assert report.stat().st_mode & 0o777 == 0o600
