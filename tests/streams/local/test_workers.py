"""Workers: readiness, and the delays of their restarts."""

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.local.errors import ServerExited
from streams.local.state import Addresses
from streams.local.workers import STEADY_S, Worker, WorkerSpec, answers, restart_delay_s

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


def worker(tmp_path: Path, spec: WorkerSpec, http_port: int = 1) -> Worker:
    addresses = Addresses(http_port=http_port, kafka_bootstrap="127.0.0.1:9")
    return Worker("router", spec, addresses=addresses, home=tmp_path, log=tmp_path / "log")


def test_delays_double_up_to_half_a_minute() -> None:
    assert [restart_delay_s(failures) for failures in range(1, 9)] == [
        *(0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)
    ]


def test_a_fallen_worker_is_started_again_after_its_delay(tmp_path: Path) -> None:
    subject = worker(tmp_path, WorkerSpec(argv=SLEEP))
    subject.start()
    first = subject.process.pid
    started_s = subject._started_s
    assert subject.fell(started_s + 1) is None
    subject.process.kill()
    assert subject.fell(started_s + 1) == 0.5
    assert subject.fell(started_s + 1.1) is None  # noted already
    assert not subject.due(started_s + 1.4)
    assert subject.due(started_s + 1.5)
    subject.restart()
    assert subject.process.alive
    assert subject.process.pid != first
    assert subject.restarts == 1
    subject.process.kill()


def test_a_worker_that_keeps_falling_waits_longer_until_it_has_lived_a_minute(
    tmp_path: Path,
) -> None:
    subject = worker(tmp_path, WorkerSpec(argv=SLEEP))
    subject.start()
    for delay_s in (0.5, 1.0, 2.0):
        subject.process.kill()
        assert subject.fell(subject._started_s + 1) == delay_s
        subject.restart()
    subject.process.kill()
    assert subject.fell(subject._started_s + STEADY_S + 1) == 0.5


def test_its_own_settings_win_over_the_addresses(tmp_path: Path) -> None:
    show = "import os; print(os.environ['OXYGENREC_KAFKA__BOOTSTRAP'], os.environ['EXTRA'])"
    spec = WorkerSpec(argv=(sys.executable, "-c", show), env={"EXTRA": "yes"})
    subject = worker(tmp_path, spec)
    subject.start()
    assert subject.process.wait(10) == 0
    assert (tmp_path / "log").read_text() == "127.0.0.1:9 yes\n"


def test_a_worker_that_ends_before_it_is_ready_is_an_error_not_a_restart(tmp_path: Path) -> None:
    spec = WorkerSpec(argv=(sys.executable, "-c", "raise SystemExit(4)"), ready=lambda: False)
    subject = worker(tmp_path, spec)
    subject.start()
    with pytest.raises(ServerExited, match="exit code 4"):
        subject.wait_ready()
    assert not subject.supervised
    subject.process.kill()


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers 200 on /ready and 503 elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 503)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_an_address_is_ready_when_it_answers_2xx(port: int, tmp_path: Path) -> None:
    assert answers(f"http://127.0.0.1:{port}/ready")
    assert not answers(f"http://127.0.0.1:{port}/other")
    subject = worker(tmp_path, WorkerSpec(argv=SLEEP, ready="{http_url}/ready"), http_port=port)
    subject.start()
    subject.wait_ready()
    subject.process.kill()
    assert subject.supervised


def test_an_address_where_nothing_listens_is_an_oserror() -> None:
    with pytest.raises(OSError, match="refused"):
        answers("http://127.0.0.1:1/ready")
