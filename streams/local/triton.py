"""Triton's real server on loopback, out of the nvidia-pytriton wheel (2.51).

Loopback only: it predates the security fixes of 2025. Production runs NVIDIA's container on the
same model repository.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from streams.local.carriers import REPOSITORY_ROOT, find_carrier
from streams.local.errors import TritonUnavailable
from streams.local.ports import LOOPBACK, free_ports
from streams.local.process import LocalProcess

OLDEST_GLIBC = (2, 35)  # what the wheel's binary is linked against
READY_TIMEOUT_S = 120.0  # 7-16 s with torch on an idle machine; three times that while tests run
STUB_TIMEOUT_S = 120  # the default of 30 s is less than a cold torch import on two busy cores
STOP_GRACE_S = 12.0  # longer than --exit-timeout-secs, so that the server ends its stubs itself
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  Triton keeps its regions there, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonPorts:
    """Where one server listens."""

    http: int
    grpc: int
    metrics: int

    @classmethod
    def free(cls) -> Self:
        """Returns three free ports."""
        http, grpc, metrics = free_ports(3)
        return cls(http=http, grpc=grpc, metrics=metrics)

    @property
    def http_url(self) -> str:
        """The address of the HTTP protocol."""
        return f"http://{LOOPBACK}:{self.http}"

    @property
    def grpc_url(self) -> str:
        """The address of the gRPC protocol, as its clients want it: without a scheme."""
        return f"{LOOPBACK}:{self.grpc}"

    @property
    def metrics_url(self) -> str:
        """The address of the Prometheus metrics."""
        return f"http://{LOOPBACK}:{self.metrics}/metrics"


def triton_unavailable() -> str | None:
    """Returns why Triton cannot run here and what mends it, or None where it can.

    The libraries are checked too: without libpython the server stays up, and ready never comes.
    """
    if platform.machine() != "x86_64":
        return f"its binary is for x86_64, this machine is {platform.machine()}"
    library, version = platform.libc_ver()
    if library != "glibc" or _version(version) < OLDEST_GLIBC:
        return f"it needs glibc 2.35 or newer, found {library or 'no glibc'} {version}"
    if (package := find_carrier("pytriton")) is None:
        return "the carrier nvidia-pytriton is not there: `make setup` brings it"
    stub = stub_program(package)
    if not stub.is_file():
        return f"no stub for Python {_python()}: `make setup PYTHON=python3.11` makes one that has"
    if missing := _missing_libraries(stub, library_path(package)):
        return (
            f"its stub does not find {', '.join(missing)}: install the package that brings it"
            f" (on Debian: `apt install libpython{_python()}`)"
        )
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def stub_program(package: Path) -> Path:
    """Returns the python backend's stub for the running Python."""
    stubs = package / "tritonserver" / "python_backend_stubs"
    return stubs / _python() / "triton_python_backend_stub"


def library_path(package: Path) -> str:
    """Returns LD_LIBRARY_PATH: libpython of this Python, and the wheel's own libraries."""
    libpython = sysconfig.get_config_var("LIBDIR") or ""
    return os.pathsep.join([libpython, str(package.parent / "nvidia_pytriton.libs")])


def _missing_libraries(stub: Path, libraries: str) -> list[str]:
    # The loader lists the libraries instead of running the program: what `ldd` does.
    loader = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_LIBRARY_PATH": libraries}
    listed = subprocess.run(
        [stub], env=loader, capture_output=True, text=True, timeout=30, check=False
    ).stdout
    return not_found(listed)


def not_found(listed: str) -> list[str]:
    """Returns the libraries that the loader's list says are missing."""
    return [line.split()[0] for line in listed.splitlines() if line.endswith("=> not found")]


class LocalTriton:
    """Starts, stops and kills one server on a model repository; its log is in `folder`."""

    def __init__(
        self,
        model_repository: Path,
        folder: Path,
        *,
        load: Sequence[str] = (),
        ports: TritonPorts | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepares the server; `load` names the models it loads at the start, `environment` is what
        the models' processes see beside this one's.

        Raises TritonUnavailable.
        """
        if reason := triton_unavailable():
            raise TritonUnavailable(reason=reason)
        chosen = ports or TritonPorts.free()
        self.http_url, self.grpc_url = chosen.http_url, chosen.grpc_url
        self.metrics_url = chosen.metrics_url
        self.load = tuple(load)
        # One name a folder: the next server of this folder removes what a killed one left.
        self._region = f"oxygenrec-{zlib.crc32(bytes(folder.resolve())):08x}-"
        self._remove_regions()
        package = find_carrier("pytriton") or Path()
        self.process = LocalProcess(
            "triton",
            [
                _executable(package, folder),
                *arguments(model_repository, self.load, chosen),
                f"--backend-directory={_backends(package, folder)}",
                f"--cache-directory={package / 'tritonserver' / 'caches'}",
                f"--backend-config=python,shm-region-prefix-name={self._region}",
            ],
            log=folder / "triton.log",
            environment={**(environment or {}), **_environment(package)},
        )

    def launch(self) -> Self:
        """Starts the server without waiting for it."""
        self.process.start()
        return self

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        """Returns when every model of `load` is ready (without models: when the server lives).

        Raises ServerExited (a model that does not load ends the server), ServerNotReady.
        """
        for path in [f"models/{model}/ready" for model in self.load] or ["health/live"]:
            self.process.wait_ready(lambda path=path: self._answers(path), timeout_s=timeout_s)  # type: ignore[misc]
        return self

    def start(self) -> Self:
        """Starts the server and waits; a failed start leaves no process."""
        try:
            return self.launch().wait_ready()
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """Kills the server and its stubs at once (SIGKILL)."""
        self.process.kill()
        self._remove_regions()

    def stop(self) -> None:
        """Stops the server and its stubs."""
        self.process.stop(grace_s=STOP_GRACE_S)
        self._remove_regions()

    def __enter__(self) -> Self:
        """Starts the server."""
        return self.start()

    def __exit__(self, *error: object) -> None:
        """Stops the server."""
        self.stop()

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self.http_url}/v2/{path}", timeout=1) as answer:  # noqa: S310  our own http address
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()  # 400: up, but not ready yet
            return False

    def _remove_regions(self) -> None:
        # A killed server leaves its shared memory behind: 1 MB a stub until the next boot.
        for region in _SHARED_MEMORY.glob(f"{self._region}*"):
            region.unlink(missing_ok=True)


def arguments(repository: Path, load: Sequence[str], ports: TritonPorts) -> list[str]:
    """Returns the server's arguments: explicit model control, loopback, these ports."""
    return [
        f"--model-repository={repository.resolve()}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in load),
        # Ready is asked per model: a reload would turn the server's own readiness off.
        "--strict-readiness=false",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=10",
        f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT_S}",
        *(f"--{service}-address={LOOPBACK}" for service in ("http", "grpc", "metrics")),
        *(f"--http-port={ports.http}", f"--grpc-port={ports.grpc}"),
        f"--metrics-port={ports.metrics}",
    ]


def _environment(package: Path) -> dict[str, str]:
    paths = [str(REPOSITORY_ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        # The first python3 on the PATH decides which site packages the stub sees: this one's.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "LD_LIBRARY_PATH": library_path(package),
    }


def _backends(package: Path, folder: Path) -> Path:
    """Lays out the python backend with the stub of this Python; returns the backend directory."""
    python = folder / "backends" / "python"
    python.mkdir(parents=True, exist_ok=True)
    source = package / "tritonserver" / "backends" / "python"
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy2(source / name, python)
    shutil.copy2(stub_program(package), python)
    (python / "triton_python_backend_stub").chmod(0o755)
    return python.parent


def _executable(package: Path, folder: Path) -> Path:
    binary = package / "tritonserver" / "bin" / "tritonserver"
    if os.access(binary, os.X_OK):
        return binary
    copy = folder / "tritonserver"  # unpacked by a tool that drops the mode
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(binary, copy)
    copy.chmod(0o755)
    return copy
