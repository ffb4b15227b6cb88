"""Instruction-guided retrieval (IGR): which of the older actions the encoder reads (OxygenREC,
section 3.3; Table 7).

    e_q = [phi_scn(I_s) ; g(I_r)]      q = psi_q(e_q)
    e_i = [phi_item(id) ; g(x)]        t = psi_i(e_i)      one psi_i for targets and history

The newest `recent` actions are always read; of those before them the `retrieved` with the largest
q.h. Ours: q and t have length 1; phi_item is the sum of code embeddings of the item's SID, so that
new items have a key; g is the frozen text encoder; no side features. The choice has no gradient: q
and t learn by the Q2I loss alone (`models.generator.losses`).

Legend: B requests, S history positions, R positions read, N items, C content dimensions, D width, X
any shape.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from models.decoding.item_index import UNKNOWN, ItemIndex
from models.generator.batch import Batch
from models.generator.config import GeneratorConfig


class InstructionRetrieval(nn.Module):
    """Queries from instructions, keys from items, and the choice between older actions."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width = config.width
        self.recent, self.retrieved = config.recent, config.retrieved or 0
        self.scale = config.content_dim**0.5  # a unit vector's numbers to variance 1
        self.codes_a_level = config.codes
        self.psi_query = _two_layers(width + config.content_dim, width)
        self.item_codes = nn.Embedding(config.levels * config.codes, width)
        self.psi_item = _two_layers(width + config.content_dim, width)

    def queries(self, batch: Batch, scenario_BD: torch.Tensor) -> torch.Tensor:
        """Returns q [B, D], of length 1; rows without `has_query` mean nothing."""
        told_BC = batch.instruction_BC * self.scale * batch.has_instruction_B.unsqueeze(1)
        return F.normalize(self.psi_query(torch.cat([scenario_BD, told_BC], dim=1)), dim=1)

    def keys(self, rows_X: torch.Tensor, index: ItemIndex) -> torch.Tensor:
        """Returns t [..., D] of items, of length 1; rows below 0 give some vector: mask it."""
        rows_X = rows_X.clamp(min=0)
        codes_XL = index.codes_NL[rows_X].long()
        first_L = torch.arange(codes_XL.shape[-1], device=codes_XL.device) * self.codes_a_level
        id_XD = self.item_codes(codes_XL + first_L).sum(dim=-2)
        content_XC = index.content_NC[rows_X].float() * self.scale
        return F.normalize(self.psi_item(torch.cat([id_XD, content_XC], dim=-1)), dim=-1)

    @torch.no_grad()
    def select(
        self,
        batch: Batch,
        scenario_BD: torch.Tensor,
        index: ItemIndex,
        keys_ND: torch.Tensor | None = None,
    ) -> Batch:
        """Returns the batch with at most R = `recent` + `retrieved` actions of each history, oldest
        first. Without `has_query` they are its newest R.

        `keys_ND`, if given, are `keys` of all items: serving makes them once a version.
        """
        if batch.rows_BS.shape[1] <= self.recent + self.retrieved:
            return batch
        if keys_ND is None:
            keys_BSD = self.keys(batch.rows_BS, index)
        else:
            keys_BSD = keys_ND[batch.rows_BS.clamp(min=0)]
        scores_BS = (keys_BSD @ self.queries(batch, scenario_BD).unsqueeze(2)).squeeze(2)
        return keep_best(batch, scores_BS, recent=self.recent, retrieved=self.retrieved)


def has_query(batch: Batch) -> torch.Tensor:
    """Returns whether a request says what to retrieve: an instruction, or a trigger item. bool
    [B].
    """
    return batch.has_instruction_B | (batch.trigger_B != UNKNOWN)


def keep_best(batch: Batch, scores_BS: torch.Tensor, *, recent: int, retrieved: int) -> Batch:
    """Returns the newest `recent` actions and, of those before, the `retrieved` of the highest
    scores; equal scores: the newer. Requests without a query keep the newest of both.
    """
    length = batch.rows_BS.shape[1]
    place_S = torch.arange(length, device=scores_BS.device)
    real_BS = batch.rows_BS != UNKNOWN
    newer_BS = real_BS.sum(dim=1, keepdim=True) - 1 - place_S
    scores_BS = torch.where(has_query(batch).unsqueeze(1), scores_BS, -newer_BS.to(scores_BS))
    scores_BS = scores_BS.masked_fill(newer_BS < recent, torch.inf)
    scores_BS = scores_BS.masked_fill(~real_BS, -torch.inf)
    # Newest first, then a stable sort: among equal scores the newer one wins.
    ranked_BS = length - 1 - scores_BS.flip(1).argsort(dim=1, descending=True, stable=True)
    best_BR = ranked_BS[:, : recent + retrieved]
    best_BR = best_BR.masked_fill(~real_BS.gather(1, best_BR), length).sort(dim=1).values
    kept_BR = best_BR < length
    place_BR = best_BR.clamp(max=length - 1)
    return replace(
        batch,
        rows_BS=batch.rows_BS.gather(1, place_BR).masked_fill(~kept_BR, UNKNOWN),
        actions_BS=batch.actions_BS.gather(1, place_BR).masked_fill(~kept_BR, 0),
        gaps_BS=batch.gaps_BS.gather(1, place_BR).masked_fill(~kept_BR, 0),
    )


def _two_layers(inner: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, width), nn.GELU(), nn.Linear(width, width))
