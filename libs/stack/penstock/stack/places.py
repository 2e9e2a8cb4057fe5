"""Places of the embedded stack's parts: in the checkout, beside the virtual environment. One `make
setup` serves every PENSTOCK_HOME.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from penstock.contracts.errors import NotFound


class Places:
    """Places in one checkout."""

    def __init__(self, checkout: Path) -> None:
        deploy, cache = checkout / "deploy", checkout / ".cache"
        self.kafka_lock = deploy / "kafka" / "jgo.lock.toml"
        self.kafka = cache / "kafka"  # its jars and the JVM's AOT cache
        self.triton_lock = deploy / "triton.lock"
        self.triton_venv = checkout / ".venv-triton"  # Triton's alone: its stub needs NumPy 1
        self.triton_sources = deploy / "triton" / "backends"
        self.triton_backends = cache / "triton" / "backends"  # ours and the wheel's, as Triton takes them

    @classmethod
    def find(cls) -> Self:
        """Finds the checkout that this module stands in. Raises NotFound where the libraries were
        installed without one.
        """
        for folder in Path(__file__).resolve().parents:
            if (folder / "deploy" / "triton.lock").is_file():
                return cls(folder)
        raise NotFound(
            "the embedded stack needs a checkout of Penstock: its locks and Triton's backend lie in deploy/",
            remedy="Clone the repository and run `make setup` there",
        )
