"""Which items are chosen near one another: a table that re-ranks the items of finished beams
(ALGORITHMS 5 and 7; ours).

    share(j) = s(j) / sum over all items of s,  s(j) = sum_k decay^k w(h_k, j),  h_0 the newest item
    term(j)  = weight * log((share(j) + floor) / (1 + floor))

so an item without neighbours in the history gets the smallest term, the same as all others of that
kind, and no term is above 0. `w(i, j)` holds the damping by the popularity of j. The policy is the
distribution over SIDs: nothing here changes a log-prob.

Legend: T items of the table, E pairs, K pairs of an item at most, B requests, S history positions,
R of them that count, X candidates.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from models.decoding.item_index import UNKNOWN, ItemIndex
from schemas.errors import OxygenRecError


class NeighboursInvalid(OxygenRecError):
    """Settings or arrays that make no table of neighbours."""

    def __init__(self, *, field: str, found: str, wanted: str) -> None:
        self.field = field
        super().__init__(f"neighbours: {field}: found {found}, wanted {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourConfig:
    """`weight` 0: no table. What stands below `floor` changes a table when it is built, the rest
    when it is asked: `recent` items of the history, each `decay` times as much as the one after it.

    A pair counts 1/distance within `window` positions, `backward` times that for an item chosen
    before the other; divided by the popularity of the found item to the power `damping`. The `kept`
    strongest of each item stay. Numbers: ALGORITHMS 7.
    """

    weight: float = 0.0
    floor: float = 1e-3
    recent: int = 10
    decay: float = 0.6
    window: int = 5
    backward: float = 0.5
    damping: float = 0.3
    kept: int = 50

    def __post_init__(self) -> None:
        """Raises `NeighboursInvalid`."""
        for field, fits, wanted in (
            ("weight", self.weight >= 0, "0 (off) or more"),
            ("floor", 0 < self.floor <= 1, "above 0, at most 1"),
            ("recent", self.recent >= 1, "1 or more"),
            ("decay", 0 < self.decay <= 1, "above 0, at most 1"),
            ("window", self.window >= 1, "1 or more"),
            ("backward", self.backward >= 0, "0 or more"),
            ("kept", self.kept >= 1, "1 or more"),
        ):
            if not fits:  # NaN fits nothing
                raise NeighboursInvalid(field=field, found=str(getattr(self, field)), wanted=wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Item `keys_T`, sorted; the pairs of item t are those from `starts[t]` up to `starts[t + 1]`:
    the neighbour's place in `keys_T` (int32) and w (float32).

    Of `config` only what is used when asking is kept on disk.
    """

    keys_T: torch.Tensor
    starts: torch.Tensor
    places_E: torch.Tensor
    weights_E: torch.Tensor
    config: NeighbourConfig

    def __post_init__(self) -> None:
        """Raises `NeighboursInvalid` for arrays that do not belong together."""
        items, pairs = len(self.keys_T), len(self.places_E)
        sorted_keys = bool((self.keys_T[1:] > self.keys_T[:-1]).all())
        ends = self.starts[[0, -1]].tolist() if len(self.starts) else []
        rising = ends == [0, pairs] and bool((self.starts[1:] >= self.starts[:-1]).all())
        inside = bool(((self.places_E >= 0) & (self.places_E < items)).all())
        sane = bool((torch.isfinite(self.weights_E) & (self.weights_E > 0)).all())
        for field, fits, wanted in (
            ("keys", items > 0 and sorted_keys, "1 or more, rising"),
            ("starts", len(self.starts) == items + 1 and rising, f"{items + 1} from 0 to {pairs}"),
            ("places", pairs > 0 and inside, f"1 or more, each below {items}"),
            ("weights", len(self.weights_E) == pairs and sane, f"{pairs}, finite, above 0"),
        ):
            if not fits:
                raise NeighboursInvalid(field=field, found="other numbers", wanted=wanted)

    def terms(
        self, index: ItemIndex, history_BS: torch.Tensor, candidates_BX: torch.Tensor
    ) -> torch.Tensor:
        """Returns what is added to the candidates' scores, float32 [B, X], none above 0.

        `history_BS` (oldest first, left-aligned, padded with -1) and `candidates_BX` are rows of
        `index`.
        """
        keys_N = index.keys_N
        history_BS = keys_N[history_BS].where(history_BS != UNKNOWN, UNKNOWN)
        share_BX = self.shares(history_BS, keys_N[candidates_BX])
        floor = self.config.floor
        # float32 first: log(1 + 1e-9) must not rise above 0.
        ratio_BX = ((share_BX + floor) / (1 + floor)).float().clamp_(max=1)
        return ratio_BX.log_().mul_(self.config.weight)

    def shares(self, history_BS: torch.Tensor, candidates_BX: torch.Tensor) -> torch.Tensor:
        """Returns each candidate's share of all neighbours' scores, float64 [B, X]: 0 where the
        history has none. Both are item keys, the history as in `terms`.

        A request's pairs are sorted by neighbour and summed up once; a candidate's score is the
        difference of two of those sums, so that no [X, pairs] table and no [N] row is made.
        """
        found_BE, weights_BE = self._pairs(history_BS)
        found_BE, order_BE = found_BE.sort(dim=1)
        sums_BE = pad(weights_BE.gather(1, order_BE).cumsum(dim=1), (1, 0))
        own_BX = self._places(candidates_BX).int()
        after_BX = torch.searchsorted(found_BE, own_BX, right=True)
        before_BX = torch.searchsorted(found_BE, own_BX)
        scores_BX = sums_BE.gather(1, after_BX) - sums_BE.gather(1, before_BX)
        tiny = torch.finfo(torch.float32).tiny  # no history: 0 / tiny
        return scores_BX / sums_BE[:, -1:].clamp(min=tiny)

    def _pairs(self, history_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the neighbours' places and their decayed weights [B, R * K], float64; T and 0 on
        padding.
        """
        items_BR = self._places(_newest(history_BS, self.config.recent))
        first_BR = self.starts[items_BR]
        after_BR = self.starts[(items_BR + 1).clamp_(max=len(self.keys_T))]  # item T has no pair
        pairs_BR = after_BR - first_BR
        number_K = torch.arange(max(1, int(pairs_BR.max())))
        padding_BRK = number_K >= pairs_BR.unsqueeze(2)
        at_BRK = (first_BR.unsqueeze(2) + number_K).clamp_(max=len(self.places_E) - 1)
        age_R1 = torch.arange(self.config.recent, dtype=torch.float64).unsqueeze(1)
        weights_BRK = self.weights_E[at_BRK] * self.config.decay**age_R1
        return (
            self.places_E[at_BRK].masked_fill_(padding_BRK, len(self.keys_T)).flatten(1),
            weights_BRK.masked_fill_(padding_BRK, 0).flatten(1),
        )

    def _places(self, keys: torch.Tensor) -> torch.Tensor:
        """Returns where keys of any shape stand in `keys_T`, T for those that do not."""
        places = torch.searchsorted(self.keys_T, keys)
        there = self.keys_T[places.clamp(max=len(self.keys_T) - 1)] == keys
        return places.where(there, len(self.keys_T))


def _newest(history_BS: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the last `count` keys of each history, newest first, padded with -1, [B, count]."""
    lengths_B1 = (history_BS != UNKNOWN).sum(dim=1, keepdim=True)
    places_BR = (lengths_B1 - torch.arange(count)).clamp_(min=0)
    return pad(history_BS, (1, 0), value=UNKNOWN).gather(1, places_BR)
