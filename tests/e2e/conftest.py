"""One end-to-end run for all claims about it: it takes two minutes, its evidence is read often."""

import pytest

from tests.e2e.evidence import Evidence
from tests.e2e.loop_run import run_loop


@pytest.fixture(scope="session")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """The whole loop, run once with kill -9 of the aggregator and of the trainer."""
    return run_loop(tmp_path_factory.mktemp("whole-loop"))
