import subprocess
import sys
from pathlib import Path

_TESTS = """
import pytest

class Program:
    def last_words(self):
        return "the program's last words"

@pytest.fixture
def program():
    return Program()

@pytest.fixture
def prepared(program):
    raise RuntimeError("preparation failed")

def test_that_fails(program):
    assert False

def test_whose_preparation_fails(prepared):
    pass

def test_that_passes(program):
    pass
"""


def test_a_failed_test_says_what_its_programs_logged_last(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(_TESTS)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "penstock.testing.plugin",
            "-p",
            "no:cacheprovider",
            "-rA",
            "test_it.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 failed, 1 passed, 1 error" in done.stdout, done.stdout
    assert done.stdout.count("what program logged last") == 2
    assert done.stdout.count("the program's last words") == 2
