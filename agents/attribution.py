"""How long and by what an impression is credited with what its user does, scenario by scenario."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

# inferred: an action without a request id counts too, by user and item; direct: none does
Mode = Literal["inferred", "direct"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """The attribution of one scenario: its window by append time, and which actions count."""

    window_ms: Annotated[int, Meta(ge=1)] = 1_800_000
    mode: Mode = "inferred"


class AttributionTable:
    """Scenario -> attribution; a scenario that the table does not name has the default."""

    def __init__(
        self, default: Attribution, by_scenario: Mapping[str, Attribution] | None = None
    ) -> None:
        self._default = default
        self._by_scenario = dict(by_scenario or {})

    def of(self, scenario: str) -> Attribution:
        """Returns the attribution of impressions in this scenario."""
        return self._by_scenario.get(scenario, self._default)
