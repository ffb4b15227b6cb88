"""A request's way through the network as one function of tensors, so that it can be compiled.

Encoding (with IGR), search and item ranking are the eager code itself (`Generator.begin`, `search`,
`rank_items`); here stand the item index and the masks as plain tensors that are inputs: a stock
change, a further item or other weights need no compilation. The masks take a request's exclusions
as rows and find the emptied nodes on the way, where the eager path keeps sorted lists beside the
counts (decisions/0019); what they say is the same.

Legend: B requests, S history positions, C content dimensions, E excluded rows, W beams, K children
of a node (padded), P nodes of a level, L levels, N items, D width, X any number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.decoding.beam_search import SearchResult, best_places
from models.decoding.item_index import UNKNOWN, ItemIndex
from models.decoding.levels import Children, Level
from models.decoding.masks import Masks
from models.generator.batch import Batch
from models.generator.decoder import Decoding
from models.generator.generator import Generator, RankedItems


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLevel:
    """A level as `models.decoding.levels.Level`, without a table: its children are computed."""

    codes: torch.Tensor
    first_child: torch.Tensor
    labels: torch.Tensor
    steps_K: torch.Tensor

    def children(self, parents: torch.Tensor) -> Children:
        """Returns the children of nodes [...] of this level."""
        start_X1 = self.first_child[parents].long().unsqueeze(-1)
        end_X1 = self.first_child[parents + 1].long().unsqueeze(-1)
        nodes_XK = start_X1 + self.steps_K
        padding_XK = nodes_XK >= end_X1
        nodes_XK = torch.minimum(nodes_XK, end_X1 - 1)
        return Children(nodes_XK, made(self.labels[nodes_XK].long()), padding_XK)


class IndexTensors(NamedTuple):
    """What a decoding reads of a catalogue; lists have an entry a level, `parents_P` one less: the
    nodes of a level above those of the next, which it is as long as.
    """

    codes: Sequence[torch.Tensor]
    first_child: Sequence[torch.Tensor]
    rows_N: torch.Tensor
    steps_K: Sequence[torch.Tensor]
    parents_P: Sequence[torch.Tensor]
    counts_KP: Sequence[torch.Tensor]
    leaf_N: torch.Tensor
    in_stock_N: torch.Tensor
    scenarios_KN: torch.Tensor
    vectors_ND: torch.Tensor
    codes_NL: torch.Tensor
    content_NC: torch.Tensor

    @classmethod
    def of(cls, index: ItemIndex, vectors_ND: torch.Tensor) -> "IndexTensors":
        """Returns the index's own tensors: a stock change is seen in them."""
        return cls(
            codes=[level.codes for level in index.levels],
            first_child=[level.first_child for level in index.levels],
            rows_N=index.levels[-1].labels,
            steps_K=[level.steps_K for level in index.levels],
            parents_P=[_parents(level) for level in index.levels[:-1]],
            counts_KP=list(index.counts),
            leaf_N=torch.from_numpy(index.leaf_N),
            in_stock_N=index.in_stock_N,
            scenarios_KN=index.scenarios_KN,
            vectors_ND=vectors_ND,
            codes_NL=index.codes_NL,
            content_NC=index.content_NC,
        )

    def flat(self) -> list[torch.Tensor]:
        """Returns all tensors in the order in which a compiled program takes them."""
        return [t for part in self for t in ([part] if isinstance(part, torch.Tensor) else part)]

    def levels(self) -> tuple[TensorLevel, ...]:
        """Returns the levels."""
        labels = [*self.codes[1:], self.rows_N]
        columns = zip(self.codes, self.first_child, labels, self.steps_K, strict=True)
        return tuple(
            TensorLevel(codes=codes, first_child=first, labels=below, steps_K=steps)
            for codes, first, below, steps in columns
        )


class TensorIndex:
    """What a search, the item head and IGR read of an `ItemIndex`."""

    def __init__(self, tensors: IndexTensors) -> None:
        self.codes_NL = tensors.codes_NL
        self.content_NC = tensors.content_NC
        self.levels = tensors.levels()
        self.depth = len(self.levels)

    def children(self, level: int, parents: torch.Tensor) -> Children:
        """Returns the children of nodes of `level` - 1."""
        return self.levels[level - 1].children(parents)

    def leaf_items(self, leaves: torch.Tensor) -> Children:
        """Returns the items of the leaves."""
        return self.levels[-1].children(leaves)


class TensorMasks:
    """What each request may be given, as `models.decoding.masks.Masks`; `excluded_BE` are rows,
    distinct ones of a request, padded with -1.
    """

    def __init__(
        self, tensors: IndexTensors, scenario_B: torch.Tensor, excluded_BE: torch.Tensor
    ) -> None:
        self._tensors = tensors
        self._scenario_B1 = scenario_B.unsqueeze(1)
        self._excluded_BE = excluded_BE
        rows_BE = made(excluded_BE.clamp(min=0))
        self._takes_BE = made((excluded_BE != UNKNOWN) & self._offered(rows_BE))
        self._leaf_BE = nodes_BE = made(tensors.leaf_N[rows_BE].long())
        emptied = [self._emptied(-1, nodes_BE)]
        for level in reversed(range(len(tensors.codes) - 1)):
            nodes_BE = made(tensors.parents_P[level][nodes_BE].long())
            emptied.append(self._emptied(level, nodes_BE))
        self._emptied_BE = emptied[::-1]

    def _emptied(self, level: int, nodes_BE: torch.Tensor) -> torch.Tensor:
        """Returns the nodes that keep no item, -1 elsewhere."""
        same_BEE = nodes_BE.unsqueeze(2) == nodes_BE.unsqueeze(1)
        taken_BE = (same_BEE & self._takes_BE.unsqueeze(1)).sum(dim=2)
        there_BE = self._tensors.counts_KP[level][self._scenario_B1, nodes_BE]
        return made(nodes_BE.where(self._takes_BE & (taken_BE >= there_BE), UNKNOWN))

    def close_roots(self, logprobs_BP: torch.Tensor) -> torch.Tensor:
        """Returns the scores of all first codes, -inf for those that may not be taken."""
        size, emptied_BE = logprobs_BP.shape[1], self._emptied_BE[0]
        none_BP = self._tensors.counts_KP[0][self._scenario_B1[:, 0]] == 0
        marks_BP = _marks(logprobs_BP, emptied_BE.where(emptied_BE >= 0, size))
        return logprobs_BP.masked_fill(none_BP, -torch.inf) + marks_BP

    def close(self, level: int, scores_BWK: torch.Tensor, nodes_BWK: torch.Tensor) -> torch.Tensor:
        """Returns the scores, -inf for nodes that may not be taken."""
        width, degree = nodes_BWK.shape[1:]
        none_BWK = self._tensors.counts_KP[level][self._scenario_B1.unsqueeze(2), nodes_BWK] == 0
        # An emptied node is looked for among the beams, each of which holds a range of nodes. A
        # dead beam may hold the nodes of a live one: it stands behind it, for top-k sorts.
        first_B1W, last_B1W = (made(nodes_BWK[:, :, end]).unsqueeze(1) for end in (0, -1))
        node_BE1 = self._emptied_BE[level].unsqueeze(2)
        beam_BE = _first((first_B1W <= node_BE1) & (node_BE1 <= last_B1W))
        there_BE, beam_BE = beam_BE < width, made(beam_BE.clamp(max=width - 1))
        step_BE = self._emptied_BE[level] - first_B1W[:, 0].gather(1, beam_BE)
        place_BE = (beam_BE * degree + step_BE).where(there_BE, width * degree)
        marks_BX = _marks(scores_BWK.flatten(1), place_BE)
        return scores_BWK.masked_fill(none_BWK, -torch.inf) + marks_BX.view_as(scores_BWK)

    def among(self, ranked: RankedItems, leaves_BW: torch.Tensor) -> RankedItems:
        """Returns the items of the leaves with -inf for those that a request may not be given."""
        width, items = ranked.rows_BWI.shape[1:]
        # As with nodes: first the beam, then the item in it.
        beam_BE = _first(self._leaf_BE.unsqueeze(2) == leaves_BW.unsqueeze(1))
        known_BE, beam_BE = beam_BE < width, made(beam_BE.clamp(max=width - 1))
        rows_BEI = ranked.rows_BWI.gather(1, beam_BE.unsqueeze(2).expand(-1, -1, items))
        step_BE = _first(rows_BEI == self._excluded_BE.unsqueeze(2))
        place_BE = (beam_BE * items + step_BE).where(known_BE & (step_BE < items), width * items)
        open_BX = self._offered(ranked.rows_BWI.flatten(1))
        marks_BX = _marks(ranked.logprobs_BWI.flatten(1), place_BE)
        return ranked._replace(
            logprobs_BWI=ranked.among(open_BX).logprobs_BWI + marks_BX.view_as(ranked.logprobs_BWI)
        )

    def _offered(self, rows_BX: torch.Tensor) -> torch.Tensor:
        shown_BX = self._tensors.scenarios_KN[self._scenario_B1, rows_BX]
        return self._tensors.in_stock_N[rows_BX] & shown_BX


class Decoded(NamedTuple):
    """Finished beams, their items, and the best W items where nothing re-ranks them (`rows_BM`,
    their codes' log-probs and scores; -inf is no answer).

    As in `SearchResult` and `RankedItems`, but that `item_logprobs_BWI` are -inf for items that a
    request may not be given.
    """

    leaves_BW: torch.Tensor
    logprobs_BWL: torch.Tensor
    scores_BW: torch.Tensor
    places_BWI: torch.Tensor
    rows_BWI: torch.Tensor
    item_logprobs_BWI: torch.Tensor
    rows_BM: torch.Tensor
    logprobs_BML: torch.Tensor
    scores_BM: torch.Tensor

    @property
    def found(self) -> SearchResult:
        """The beams."""
        return SearchResult(
            leaves_BW=self.leaves_BW, logprobs_BWL=self.logprobs_BWL, scores_BW=self.scores_BW
        )

    @property
    def ranked(self) -> RankedItems:
        """The items of all beams."""
        return RankedItems(self.places_BWI, self.rows_BWI, self.item_logprobs_BWI)


class DecodingProgram(nn.Module):
    """One batch from its tensors to its ranked items, `beams` wide."""

    def __init__(self, generator: Generator, beams: int) -> None:
        super().__init__()
        self.generator = generator
        self.beams = beams

    def forward(
        self, request: Sequence[torch.Tensor], excluded_BE: torch.Tensor, index: Sequence[Any]
    ) -> tuple[torch.Tensor, ...]:
        """Takes the fields of a `Batch`, its excluded rows, the fields of `IndexTensors`; returns
        those of `Decoded`: plain containers are all that can be exported.
        """
        return tuple(self.decode(self.batch_of(request), excluded_BE, IndexTensors(*index)))

    def batch_of(self, request: Sequence[torch.Tensor]) -> Batch:
        """Returns the batch of these fields."""
        names = [field.name for field in fields(Batch)]
        return Batch(**dict(zip(names, request, strict=True)))

    def begin(self, batch: Batch, tensors: IndexTensors) -> Decoding:
        """Encodes the batch and reads the prefix."""
        catalogue = cast(ItemIndex, TensorIndex(tensors))  # all that is read of it
        return self.generator.begin(batch, catalogue, tensors.vectors_ND)

    def decode(self, batch: Batch, excluded_BE: torch.Tensor, tensors: IndexTensors) -> Decoded:
        """Returns the finished beams and their items."""
        decoding = self.begin(batch, tensors)
        catalogue = cast(ItemIndex, TensorIndex(tensors))
        vectors_ND, generator = tensors.vectors_ND, self.generator
        masks = self.masks(tensors, batch.scenario_B, excluded_BE)
        found = generator.search(decoding, catalogue, cast(Masks, masks), self.beams)
        ranked = generator.rank_items(decoding, catalogue, found.leaves_BW, vectors_ND)
        ranked = masks.among(ranked, found.leaves_BW)
        scores_BX = (found.scores_BW.unsqueeze(2) + ranked.logprobs_BWI).flatten(1)
        best_BM = best_places(scores_BX, ranked.places_BWI.flatten(1), self.beams)
        beam_BM1 = (best_BM // ranked.places_BWI.shape[2]).unsqueeze(2)
        return Decoded(
            leaves_BW=found.leaves_BW,
            logprobs_BWL=found.logprobs_BWL,
            scores_BW=found.scores_BW,
            places_BWI=ranked.places_BWI,
            rows_BWI=ranked.rows_BWI,
            item_logprobs_BWI=ranked.logprobs_BWI,
            rows_BM=ranked.rows_BWI.flatten(1).gather(1, best_BM),
            logprobs_BML=found.logprobs_BWL.gather(
                1, beam_BM1.expand(-1, -1, found.logprobs_BWL.shape[2])
            ),
            scores_BM=scores_BX.gather(1, best_BM),
        )

    def masks(
        self, tensors: IndexTensors, scenario_B: torch.Tensor, excluded_BE: torch.Tensor
    ) -> TensorMasks:
        """Returns the masks; a benchmark replaces them."""
        return TensorMasks(tensors, scenario_B, excluded_BE)


def _parents(level: Level) -> torch.Tensor:
    """Returns the node of this level above each node of the next, int32. Four bytes a node, beside
    what the index holds: searched for, the parents of five nodes take 8 us.
    """
    own_P: npt.NDArray[np.int32] = np.arange(len(level.codes), dtype=np.int32)
    return torch.from_numpy(own_P.repeat(level.first_child.diff().numpy()))


def made(values: torch.Tensor) -> torch.Tensor:
    """Returns the values as a tensor in memory, where a compiler would compute them anew each time
    they are read: a node's mask once an excluded item, 1.4 ms of a request.
    """
    values = values.contiguous()
    return values.as_strided(values.shape, values.stride())


def laid_out(generator: Generator) -> dict[str, torch.Tensor]:
    """Returns the weights as a program reads them: those of linear layers are laid out by column,
    whose products take three quarters of the time.
    """
    weights = {name: tensor.detach() for name, tensor in generator.state_dict().items()}
    for name, layer in generator.named_modules():
        if isinstance(layer, nn.Linear):
            weights[f"{name}.weight"] = weights[f"{name}.weight"].t().contiguous().t()
    return weights


def _first(hits_BEX: torch.Tensor) -> torch.Tensor:
    """Returns the place of the first hit of each list, X where there is none."""
    size = hits_BEX.shape[2]
    places_X = torch.arange(size, device=hits_BEX.device)
    return places_X.where(hits_BEX, size).amin(dim=2)


def _marks(like_BX: torch.Tensor, places_BE: torch.Tensor) -> torch.Tensor:
    """Returns -inf at the places, 0 elsewhere; place X is none."""
    size = like_BX.shape[1]
    marks_BQ = like_BX.new_zeros(like_BX.shape[0], size + 1)
    return marks_BQ.scatter(1, places_BE, -torch.inf)[:, :size]
