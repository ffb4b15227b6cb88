"""One short round of `make faults`: broken traffic, and kill -9 of the aggregator in its midst."""

from pathlib import Path

import pytest

from tests.faults.rig import Rig
from tests.faults.run import run_scenario
from tests.faults.scenarios import Scenario, kill_worker
from tests.faults.traffic import Mix

SHORT = Scenario(
    name="short",
    strike=kill_worker("window-aggregator"),
    mix=Mix(poison=0.02, duplicates=0.1, misrouted=0.05, hot_user=0.2),
    seconds=8,
    most_late=0.05,
)


@pytest.mark.integration
@pytest.mark.timeout(240)
def test_what_was_acknowledged_is_kept_once_and_poison_is_buried(tmp_path: Path) -> None:
    with Rig(tmp_path, nodes=1) as rig:
        result = run_scenario(rig, SHORT, seed=3)
    assert result.verdict.violations == {}
    assert result.recovered_s is not None
    assert min(result.verdict.windows, result.verdict.rewards, result.verdict.poison) > 0
