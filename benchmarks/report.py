"""What every benchmark prints: a table, machine, commit and command; and the same as JSON."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def arguments(description: str) -> argparse.Namespace:
    """Returns `quick` and `json` of the command line. A benchmark may parse more with `parser`."""
    return parser(description).parse_args()


def parser(description: str) -> argparse.ArgumentParser:
    """Returns the parser that all benchmarks share."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--quick", action="store_true", help="a fraction of the work")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the results there as JSON")
    return found


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints one table: the first column left-aligned, figures to the right."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(width=140).print(table)


def finish(name: str, results: Mapping[str, Any], *, started: float, path: Path | None) -> None:
    """Prints machine, commit, duration, command; writes everything to `path` if there is one."""
    about = {
        "benchmark": name,
        "machine": machine(),
        "commit": commit(),
        "seconds": round(time.monotonic() - started, 1),
        "command": " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]]),
    }
    for key, value in about.items():
        print(f"{key}: {value}")
    if path is not None:
        path.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")
        print(f"written: {path}")


def machine() -> str:
    """Returns processor, usable cores, memory and Python, in words."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        lines = [line for line in cpus.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {cores} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}"


def commit() -> str:
    """Returns the short hash of HEAD, marked where the tree differs from it."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
