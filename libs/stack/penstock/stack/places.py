"""Places of the embedded stack's parts: in the checkout, beside the virtual environment. One `make
setup` serves every PENSTOCK_HOME.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from penstock.contracts.errors import NotFound


@dataclass(frozen=True)
class Places:
    """Places in one checkout."""

    checkout: Path

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

    @property
    def kafka_lock(self) -> Path:
        return self.checkout / "deploy" / "kafka" / "jgo.lock.toml"

    @property
    def kafka(self) -> Path:
        """Folder of Kafka's jars and the JVM's AOT cache."""
        return self.checkout / ".cache" / "kafka"

    @property
    def triton_lock(self) -> Path:
        return self.checkout / "deploy" / "triton.lock"

    @property
    def triton_venv(self) -> Path:
        """Environment of Triton alone: its stub needs NumPy 1."""
        return self.checkout / ".venv-triton"

    @property
    def triton_backends(self) -> Path:
        """Sources of our backends."""
        return self.checkout / "deploy" / "triton" / "backends"
