"""The lag of a worker: from its last finished record to the end, also while it stands still."""

import math

from prometheus_client import REGISTRY

from streams.lag import Lags


def lag(worker: str, partition: int) -> float | None:
    labels = {"worker": worker, "topic": "actions", "partition": str(partition)}
    return REGISTRY.get_sample_value("oxygenrec_lag_records", labels)


def test_the_lag_of_a_worker_that_stands_still_grows_with_the_log() -> None:
    ends = {("actions", 0): 12}
    lags = Lags("lag-still", lambda topic, partition: ends.get((topic, partition)))
    lags.begin("actions", 0, 10)
    lags.begin("actions", 0, 11)  # begun already
    assert lag("lag-still", 0) == 2
    ends["actions", 0] = 20
    assert lag("lag-still", 0) == 10
    lags.finish("actions", 0, 20)
    assert lag("lag-still", 0) == 0


def test_a_partition_that_moved_away_is_not_told_any_more() -> None:
    lags = Lags("lag-moved", lambda topic, partition: 5)
    lags.finish("actions", 0, 1)
    lags.finish("actions", 1, 1)
    lags.keep_only({("actions", 1)})
    assert (lag("lag-moved", 0), lag("lag-moved", 1)) == (None, 4)
    lags.begin("actions", 0, 3)  # and back
    assert lag("lag-moved", 0) == 2


def test_a_client_that_cannot_say_its_end_leaves_the_other_metrics_alone() -> None:
    lags = Lags("lag-closed", lambda topic, partition: 1 // 0)
    lags.begin("actions", 0, 1)
    assert math.isnan(lag("lag-closed", 0) or 0)


def test_before_the_first_fetch_the_lag_is_unknown_and_not_zero() -> None:
    lags = Lags("lag-unknown", lambda topic, partition: None)
    lags.begin("actions", 0, 1)
    assert math.isnan(lag("lag-unknown", 0) or 0)
