"""Where Prometheus finds the metrics of a stack: one file, read by its `file_sd_configs`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

TARGETS_FILE = "prometheus.json"


def write_targets(home: Path, addresses: Mapping[str, str]) -> None:
    """Replaces the file atomically: one target (`host:port`, path /metrics) for each name."""
    groups = [
        {"targets": [address], "labels": {"job": "oxygenrec", "process": name}}
        for name, address in addresses.items()
    ]
    temporary = home / f".{TARGETS_FILE}"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(groups), indent=1))
    temporary.replace(home / TARGETS_FILE)


def remove_targets(home: Path) -> None:
    """Removes the file, if there is one."""
    (home / TARGETS_FILE).unlink(missing_ok=True)
