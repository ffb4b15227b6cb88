"""Makes a peer's Python environment, once, in the cache: none of them is a dependency of ours."""

import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from schemas.errors import OxygenRecError
from streams.local.carriers import cache_folder

REDIS = ("redis==8.1.0", "hiredis==3.5.0")
# The newest versions on 2026-11-25; quixstreams brings the confluent-kafka that it pins (2.12.2).
PINS: dict[str, tuple[str, ...]] = {
    "quixstreams": ("quixstreams==3.28.1", *REDIS),
    "bytewax": ("bytewax==0.21.1", "confluent-kafka==2.16.1", "msgspec==0.22.0", *REDIS),
    "aiokafka": ("aiokafka[lz4]==0.14.0", "uvloop==0.23.0", "msgspec==0.22.0", *REDIS),
}
PIP = ("-m", "pip", "install", "--quiet", "--only-binary", ":all:")
INSTALL_S = 300.0  # 10-20 s here; a package source may stall


class PeerUnavailable(OxygenRecError):
    """A peer's environment cannot be made on this machine; its row says why."""

    def __init__(self, *, peer: str, why: str) -> None:
        self.peer = peer
        self.why = why
        super().__init__(f"no environment for {peer}: {why}")


def python_of(peer: str) -> Path:
    """Returns the Python of a peer's environment, made where it is missing.

    Raises `PeerUnavailable`.
    """
    pins = PINS[peer]
    key = hashlib.sha256("\n".join((platform.python_version(), *pins)).encode()).hexdigest()[:12]
    folder = cache_folder() / "peers" / f"{peer}-{key}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run(peer, [sys.executable, "-m", "venv", str(folder)])
        # Wheels alone: building RocksDB or Rust would take many times what the benchmark takes.
        _run(peer, [str(python), *PIP, *pins])
        complete.touch()
    return python


def _run(peer: str, command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailable(peer=peer, why=f"not made within {INSTALL_S:g} s") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "no word of why").strip().splitlines()
        version = ".".join(map(str, sys.version_info[:2]))
        raise PeerUnavailable(peer=peer, why=f"Python {version}: {said[-1]}") from error
