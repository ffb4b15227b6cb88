"""Items and history to the context that the decoder attends to.

Legend: B requests, S history positions, M = 1 + S context positions, L levels, V codes, D width, X
any shape.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.decoding.item_index import UNKNOWN, ItemIndex
from models.generator.attention import EncoderLayer
from models.generator.batch import Batch
from models.generator.config import GeneratorConfig


class ItemEmbedding(nn.Module):
    """An item = the sum of its code embeddings + a projection of its frozen text embedding."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.codes = nn.Embedding(config.levels * config.codes, config.width)
        self.content = nn.Linear(config.content_dim, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.scale = config.content_dim**0.5  # a unit vector's numbers to variance 1
        self.codes_a_level = config.codes

    def code(self, level: int, codes_X: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings [..., D] of codes of one level."""
        first = level * self.codes_a_level
        return F.embedding(codes_X, self.codes.weight[first : first + self.codes_a_level])

    def forward(
        self, rows_X: torch.Tensor, index: ItemIndex, vectors_ND: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the items' vectors [..., D]; rows below 0 give some vector: mask it.

        `vectors_ND`, if given, are those of all items: serving makes them once a version.
        """
        rows_X = rows_X.clamp(min=0)
        if vectors_ND is not None:
            return vectors_ND[rows_X]
        codes_XL = index.codes_NL[rows_X].long()
        first_L = torch.arange(codes_XL.shape[-1], device=codes_XL.device) * self.codes_a_level
        content_XC = (index.content_NC[rows_X].float() * self.scale).to(self.content.weight.dtype)
        summed_XD = self.codes(codes_XL + first_L).sum(dim=-2) + self.content(content_XC)
        vectors_XD: torch.Tensor = self.norm(summed_XD)
        return vectors_XD


class Encoder(nn.Module):
    """X = [profile ; recent behaviour] -> context. The profile is one learnable token until
    profiles have features.

    One position an item: item vector + action + log-time-gap bucket + distance from the newest
    (ours).
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.max_history = config.max_history
        self.profile = nn.Parameter(torch.randn(config.width) * 0.02)
        self.actions = nn.Embedding(config.actions, config.width)
        self.gaps = nn.Embedding(config.gap_buckets, config.width)
        self.distances = nn.Embedding(config.max_history, config.width)
        self.norm_in = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm_out = nn.LayerNorm(config.width)

    def forward(
        self, items_BSD: torch.Tensor, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the context [B, M, D] and its mask as attention takes it, [B, 1, 1, M] (None: no
        padding).

        The profile makes sure that the context is never empty.
        """
        real_BS = batch.rows_BS != UNKNOWN
        # A card is not asked: that would wait for it, and it adds a mask in no time.
        known = real_BS.is_cuda or torch.compiler.is_exporting()
        padded = known or not bool(real_BS.all())
        x_BSD = items_BSD + self.actions(batch.actions_BS) + self.gaps(batch.gaps_BS)
        x_BSD = x_BSD + self.distances(self._distances(real_BS, padded=padded))
        profile_B1D = self.profile.expand(x_BSD.shape[0], 1, -1)
        x_BMD = self.dropout(self.norm_in(torch.cat([profile_B1D, x_BSD], dim=1)))
        mask_B11M = F.pad(real_BS, (1, 0), value=True)[:, None, None] if padded else None
        for layer in self.layers:
            x_BMD = layer(x_BMD, mask_B11M)
        return self.norm_out(x_BMD), mask_B11M

    def _distances(self, real_BS: torch.Tensor, *, padded: bool) -> torch.Tensor:
        """Returns how many newer actions each position has, at most `max_history` - 1."""
        length = real_BS.shape[1]
        newer_S = torch.arange(length - 1, -1, -1, device=real_BS.device)
        if padded:  # the history stands left: padding is not newer than the last action
            missing_B1 = length - real_BS.sum(dim=1, keepdim=True)
            return (newer_S - missing_B1).clamp(min=0, max=self.max_history - 1)
        return newer_S.clamp(max=self.max_history - 1)
