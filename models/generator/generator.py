"""The generator P(Y | X, I_s, I_r) (OxygenREC, section 3.2): encoder, decoder over semantic IDs,
item head.

Items inside an SID are ranked by probability (ours): the item head is the dot product of the state
behind the prefix (context, scenario and instruction are in it) with an item's vector; its softmax
over the SID's items is log P(item | SID).

Legend: B requests, G candidates of one request, L levels, W beams, X any shape, N items, I items of
a leaf, D width.
"""

import math
from typing import NamedTuple, Self

import torch
from torch import nn

from models.decoding.beam_search import SearchResult, beam_search
from models.decoding.item_index import ItemIndex
from models.decoding.legal import CodeHead, ScoreSemantics, sid_logprobs
from models.decoding.masks import Masks
from models.decoding.sampling import Sample, sample_without_replacement
from models.generator.batch import Batch
from models.generator.config import GeneratorConfig
from models.generator.decoder import Decoder, Decoding
from models.generator.encoder import Encoder, ItemEmbedding
from models.generator.instructions import Prefix
from models.generator.retrieval import InstructionRetrieval

ITEMS_AT_ONCE = 65_536  # a million at once would take 2 GB beside their vectors
INITIAL_STD = 0.1  # small beside normed item vectors, so that text leads before codes are learnt


class RankedItems(NamedTuple):
    """The items of finished beams, padded: places in the order of SID and key, rows of the index,
    `log P(item | SID)` (-inf on padding), all [B, W, I].
    """

    places_BWI: torch.Tensor
    rows_BWI: torch.Tensor
    logprobs_BWI: torch.Tensor

    def among(self, open_BX: torch.Tensor) -> Self:
        """Returns the items with -inf where `open_BX` [B, W * I] is False: not to be given."""
        open_BWI = open_BX.view_as(self.logprobs_BWI)
        return self._replace(logprobs_BWI=self.logprobs_BWI.where(open_BWI, -torch.inf))


class Generator(nn.Module):
    """Encoder-decoder over semantic IDs. All methods take the item index that the batch was
    collated with.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        """Makes fresh weights from torch's global random generator: seed it before."""
        super().__init__()
        self.config = config
        self.items = ItemEmbedding(config)
        self.encoder = Encoder(config)
        self.prefix = Prefix(config)
        self.decoder = Decoder(config)
        self.head_weight_LVD = nn.Parameter(torch.empty(config.levels, config.codes, config.width))
        self.head_bias_LV = nn.Parameter(torch.zeros(config.levels, config.codes))
        self.item_query = nn.Linear(config.width, config.width)
        self.retrieval = InstructionRetrieval(config) if config.retrieved else None
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
        nn.init.normal_(self.head_weight_LVD, std=config.width**-0.5)

    @property
    def head(self) -> CodeHead:
        """The output rows of every level."""
        return CodeHead(self.head_weight_LVD, self.head_bias_LV)

    @property
    def device(self) -> torch.device:
        """Where the weights are: batches, indexes and vectors must be there too."""
        return self.head_bias_LV.device

    def begin(
        self,
        batch: Batch,
        index: ItemIndex,
        vectors_ND: torch.Tensor | None = None,
        retrieval_keys_ND: torch.Tensor | None = None,
    ) -> Decoding:
        """Encodes the context (with IGR: what it selects), reads the prefix.

        `vectors_ND` are `item_vectors(index)`, `retrieval_keys_ND` the keys of all items, or None.
        """
        scenario_BD = self.scenario(batch, index, vectors_ND)
        if self.retrieval is not None:
            batch = self.retrieval.select(batch, scenario_BD, index, retrieval_keys_ND)
        memory_BMD, mask_B11M = self.encoder(self.items(batch.rows_BS, index, vectors_ND), batch)
        prefix_BPD = self.prefix(batch, scenario_BD)
        return self.decoder.begin(prefix_BPD, memory_BMD, mask_B11M, self.items)

    def scenario(
        self, batch: Batch, index: ItemIndex, vectors_ND: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns I_s [B, D]: scenario and trigger item in one token."""
        return self.prefix.scenario(batch, self.items(batch.trigger_B, index, vectors_ND))

    def item_vectors(self, index: ItemIndex) -> torch.Tensor:
        """Returns the vectors of all items, [N, D]: valid as long as the weights do not change."""
        rows_N = torch.arange(len(index.keys_N), device=index.codes_NL.device)
        parts = rows_N.split(ITEMS_AT_ONCE)
        return torch.cat([self.items(rows_X, index) for rows_X in parts])

    def sid_logprobs(
        self,
        batch: Batch,
        sids: torch.Tensor,
        index: ItemIndex,
        semantics: ScoreSemantics = ScoreSemantics.LEGAL,
    ) -> torch.Tensor:
        """Returns the teacher-forced log-prob of every code of `sids` [B, G, L], [B, G, L].

        Differentiable; in eval mode equal to the search's to 1e-5. Raises `UnknownSemanticId`: pad
        with an SID that the index holds.
        """
        states_BGLD = self.begin(batch, index).states_of(sids)
        return sid_logprobs(states_BGLD, self.head, index, sids, semantics)

    def search(
        self,
        decoding: Decoding,
        index: ItemIndex,
        masks: Masks,
        beams: int,
        semantics: ScoreSemantics = ScoreSemantics.LEGAL,
    ) -> SearchResult:
        """Returns the best `beams` SIDs that hold an eligible item; `decoding` is used up."""
        return beam_search(decoding, self.head, index, masks, beams, semantics)

    def sample(
        self,
        decoding: Decoding,
        index: ItemIndex,
        masks: Masks,
        count: int,
        random: torch.Generator,
    ) -> Sample:
        """Returns `count` SIDs that hold an eligible item, drawn without replacement; `decoding` is
        used up.
        """
        return sample_without_replacement(decoding, self.head, index, masks, count, random)

    def rank_items(
        self,
        decoding: Decoding,
        index: ItemIndex,
        leaves_BW: torch.Tensor,
        vectors_ND: torch.Tensor | None = None,
    ) -> RankedItems:
        """Returns the items of the leaves with log P(item | SID), a softmax over all items of the
        SID.

        Only the leaves' items are read: 100 of 12,000 take 10 us, one product with all 250 us
        (of 200,000: 10 us and 4 ms).
        """
        places_BWI, rows_BWI, padding_BWI = index.leaf_items(leaves_BW)
        query_BD = self.item_query(decoding.first_BD) / math.sqrt(self.config.width)
        vectors_BXD = self.items(rows_BWI.flatten(1), index, vectors_ND).to(query_BD.dtype)
        scores_BWI = (vectors_BXD @ query_BD.unsqueeze(2)).view(rows_BWI.shape)
        scores_BWI = scores_BWI.masked_fill(padding_BWI, -torch.inf)
        return RankedItems(places_BWI, rows_BWI, scores_BWI.log_softmax(dim=-1))

    def item_scores(
        self, decoding: Decoding, index: ItemIndex, rows_N: torch.Tensor
    ) -> torch.Tensor:
        """Returns the item head's scores of items `rows_N` for every request, [B, N]."""
        query_BD = self.item_query(decoding.first_BD)
        scores_BN: torch.Tensor = query_BD @ self.items(rows_N, index).T
        return scores_BN / math.sqrt(self.config.width)


def parameter_count(module: nn.Module) -> int:
    """Returns the number of trained numbers."""
    return sum(parameter.numel() for parameter in module.parameters())
