"""Short rounds of `make faults`: broken traffic and a killed aggregator; a killed edge."""

from pathlib import Path

import pytest

from tests.faults.rig import Rig
from tests.faults.run import run_scenario
from tests.faults.scenarios import Scenario, kill_worker
from tests.faults.traffic import Mix

BROKEN_TRAFFIC = Scenario(
    name="short",
    strike=kill_worker("window-aggregator"),
    mix=Mix(poison=0.02, duplicates=0.1, misrouted=0.05, hot_user=0.2),
    seconds=8,
    most_late=0.05,
)
KILLED_EDGE = Scenario(
    name="short edge", strike=kill_worker("edge"), mix=Mix(posted=0.5), seconds=8, most_late=0.3
)


@pytest.mark.integration
@pytest.mark.timeout(240)
def test_what_was_acknowledged_is_kept_once_and_poison_is_buried(tmp_path: Path) -> None:
    with Rig(tmp_path, nodes=1) as rig:
        broken, edge = (run_scenario(rig, one, seed=3) for one in (BROKEN_TRAFFIC, KILLED_EDGE))
    for result in (broken, edge):
        assert result.verdict.violations == {}
        assert result.recovered_s is not None
        found = result.verdict
        assert min(found.windows, found.rewards, found.changed, result.posted) > 0
    assert broken.verdict.poison > 0
    assert edge.again > 0, "no post met the killed edge"
