"""Finds what `make setup` unpacked for this machine: wheels that carry servers, and the cache.

A carrier is a wheel that brings a program. It is executed, never imported.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """Returns the folder of what is downloaded once: OXYGENREC_CACHE or ~/.cache/oxygenrec."""
    chosen = os.environ.get("OXYGENREC_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "oxygenrec"


def carriers_folder() -> Path:
    """Returns the folder of the carriers, where `make setup` unpacks them."""
    return REPOSITORY_ROOT / ".carriers"


def find_carrier(package: str) -> Path | None:
    """Returns the folder of a carrier's package: in the carriers' folder, else where installed.

    An installed package is located, not imported.
    """
    unpacked = carriers_folder() / package
    if unpacked.is_dir():
        return unpacked
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
