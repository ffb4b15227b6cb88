"""The real Triton server: its pre-checks, and a trivial python-backend model on it."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from streams.local import triton
from streams.local.errors import ServerExited, TritonUnavailable
from streams.local.guardian import start_mark
from streams.local.triton import LocalTriton, TritonPorts, arguments, not_found, triton_unavailable

CONFIG = """
name: "doubler"
backend: "python"
max_batch_size: 8
input [ { name: "VALUES" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [ { name: "DOUBLED" data_type: TYPE_INT64 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
# The product's own packages must be importable inside the stub.
MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils
import schemas.topics

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            values = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "VALUES"))
            doubled = pb_utils.Tensor.from_dlpack("DOUBLED", values * 2)
            answers.append(pb_utils.InferenceResponse([doubled]))
        return answers
"""


def repository(folder: Path, model: str = MODEL) -> Path:
    version = folder / "repository" / "doubler" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(model)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return folder / "repository"


def test_the_arguments_are_explicit_loopback_and_without_completion(tmp_path: Path) -> None:
    line = arguments(tmp_path, ["generator"], TritonPorts(http=1, grpc=2, metrics=3))
    assert "--model-control-mode=explicit" in line
    assert "--load-model=generator" in line
    assert "--strict-readiness=false" in line
    assert "--disable-auto-complete-config" in line
    for service, port in (("http", 1), ("grpc", 2), ("metrics", 3)):
        assert f"--{service}-address=127.0.0.1" in line
        assert f"--{service}-port={port}" in line


def test_another_architecture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert triton_unavailable() == "its binary is for x86_64, this machine is aarch64"


def test_an_old_glibc_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.31"))
    assert triton_unavailable() == "it needs glibc 2.35 or newer, found glibc 2.31"


@pytest.fixture
def carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that Triton would run on, with an empty carrier."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(triton, "find_carrier", lambda package: tmp_path / package)
    return tmp_path / "pytriton"


def test_a_missing_carrier_names_the_command_that_brings_it(
    carrier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "find_carrier", lambda package: None)
    assert "make setup" in str(triton_unavailable())


def test_a_missing_stub_names_the_python_version(carrier: Path) -> None:
    assert str(triton_unavailable()).startswith(f"no stub for Python {triton._python()}")


def test_missing_libraries_are_read_from_the_loaders_list() -> None:
    listed = "\tlibpython3.11.so.1.0 => not found\n\tlibc.so.6 => libc.so.6 (0x7f)\n"
    assert not_found(listed) == ["libpython3.11.so.1.0"]


def test_a_missing_libpython_is_found_before_the_start(
    carrier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = triton.stub_program(carrier)
    stub.parent.mkdir(parents=True)
    stub.touch()
    missing = ["libpython3.11.so.1.0"]
    monkeypatch.setattr(triton, "_missing_libraries", lambda stub, libraries: missing)
    reason = str(triton_unavailable())
    assert "does not find libpython3.11.so.1.0" in reason
    assert "apt install libpython3" in reason
    with pytest.raises(TritonUnavailable, match=r"Triton cannot run here: its stub does not find"):
        LocalTriton(tmp_path, tmp_path)
    missing.clear()
    assert triton_unavailable() is None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalTriton]:
    with LocalTriton(repository(tmp_path), tmp_path / "triton", load=["doubler"]) as server:
        yield server


def doubled(server: LocalTriton, values: list[int]) -> list[int]:
    tensor = triton_grpc.InferInput("VALUES", [1, len(values)], "INT64")
    tensor.set_data_from_numpy(np.array([values], dtype=np.int64))
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer("doubler", [tensor], client_timeout=10)
        return [int(value) for value in answer.as_numpy("DOUBLED")[0]]


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def shared_memory(server: LocalTriton) -> list[Path]:
    return list(triton._SHARED_MEMORY.glob(f"{server._region}*"))


@pytest.mark.integration
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_model_answers_and_the_end_leaves_no_process_and_no_memory(
    end: str, server: LocalTriton
) -> None:
    assert doubled(server, [1, 2, 3]) == [2, 4, 6]
    pid = server.process.pid
    stubs = descendants(pid)
    assert stubs
    assert shared_memory(server)
    getattr(server, end)()
    assert start_mark(pid) is None
    # Killed with the server's group, but nobody's child any more: the kernel takes its moment.
    deadline = time.monotonic() + 10
    while (left := [stub for stub in stubs if start_mark(stub)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == []
    assert shared_memory(server) == []


@pytest.mark.integration
def test_a_killed_server_starts_again_on_its_ports(server: LocalTriton) -> None:
    before = server.grpc_url
    server.kill()
    server.start()
    assert server.grpc_url == before
    assert doubled(server, [5]) == [10]


@pytest.mark.integration
def test_its_metrics_answer_on_their_own_port(server: LocalTriton) -> None:
    doubled(server, [1])
    with urllib.request.urlopen(server.metrics_url, timeout=5) as answer:  # noqa: S310  loopback
        text = answer.read().decode()
    assert 'nv_inference_request_success{model="doubler"' in text


@pytest.mark.integration
def test_a_model_that_does_not_load_is_a_failed_start_with_its_reason(tmp_path: Path) -> None:
    broken = repository(tmp_path, "raise RuntimeError('no weights here')\n")
    server = LocalTriton(broken, tmp_path / "triton", load=["doubler"])
    with pytest.raises(ServerExited, match="no weights here"):
        server.start()
    assert not server.process.alive


@pytest.mark.integration
def test_a_stub_that_was_killed_leaves_the_server_to_us(server: LocalTriton) -> None:
    # Triton does not restart a dead stub and still says ready: stopping must end what is left.
    stub = descendants(server.process.pid)[0]
    os.kill(stub, signal.SIGKILL)
    time.sleep(0.2)
    pid = server.process.pid
    server.stop()
    assert start_mark(pid) is None
