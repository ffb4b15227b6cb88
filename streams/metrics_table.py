"""Prints every metric as a table of Markdown: what docs/metrics.md holds."""

import sys

from prometheus_client.metrics import MetricWrapperBase

from streams import metrics


def metrics_table() -> str:
    """Returns a line for each metric of `streams.metrics`: name, type, labels, meaning."""
    rows = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "-"  # noqa: SLF001  no accessor
            said = family.documentation.replace("|", "\\|")
            rows.append(f"| `{name}` | {family.type} | {labels} | {said} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(metrics_table())
