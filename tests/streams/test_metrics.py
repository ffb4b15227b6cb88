"""The metric table: names, units and the exposition endpoint."""

import re
from pathlib import Path

import httpx
from prometheus_client import REGISTRY

from streams import metrics
from streams.metrics_table import metrics_table

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
UNITS = ("_seconds", "_total", "_bytes", "_ratio", "_records")
COUNTS_AND_NUMBERS = {
    "oxygenrec_chat_in_flight",
    "oxygenrec_compiled_decoding",
    "oxygenrec_open_windows",
    "oxygenrec_served_policy_version",
    "oxygenrec_published_policy_version",
    "oxygenrec_logprob_mismatch",
    "oxygenrec_policy_logprob_mismatch_max",
    "oxygenrec_policy_objective",
    "oxygenrec_policy_kl",
}


def test_every_metric_has_our_prefix_and_a_base_unit() -> None:
    families = [f for f in REGISTRY.collect() if f.name.startswith("oxygenrec_")]
    assert len(families) > 20
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name in COUNTS_AND_NUMBERS or name.endswith(UNITS), name


def test_the_endpoint_answers_with_what_was_counted() -> None:
    metrics.DEGRADED.labels(cause="test").inc()
    server = metrics.serve(0)
    try:
        answer = httpx.get(f"http://127.0.0.1:{server.port}/metrics")
    finally:
        server.close()
    assert answer.status_code == 200
    assert 'oxygenrec_degraded_total{cause="test"} 1.0' in answer.text
    assert 'oxygenrec_degraded_total{cause="test"} 1.0' in metrics.exposition().decode()


def test_the_document_tells_every_metric_and_asks_for_none_that_there_is_not() -> None:
    table = metrics_table()
    assert table in DOCUMENT, "docs/metrics.md: put in what `python -m streams.metrics_table` says"
    known = set(re.findall(r"oxygenrec_\w+", table))
    asked = {re.sub("_(bucket|sum|count)$", "", n) for n in re.findall(r"oxygenrec_\w+", DOCUMENT)}
    assert asked <= known
