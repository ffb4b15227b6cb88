"""The transformer layers: encoder, and decoder whose sequences share one context.

Legend: B requests, M context positions, Q sequences of one request (candidates or beams), Y = B *
Q, T new tokens of each, X = Q * T, P tokens before them, H heads, E width of a head, D width, K
width of keys beside values (2 D; less where groups of heads share them, arXiv 2305.13245). K and V
of the context are made once a request; the Q sequences stand on the query axis of one attention
call and are never replicated along the context.

At the preset `tiny` a layer is twenty calls of 5-50 us each, so each call that only moves data is
felt: heads are split by one permutation, dropout is skipped outside of training.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from models.generator.config import GeneratorConfig
from models.generator.experts import Experts, GatedFeedForward


class KeysValues(NamedTuple):
    """Keys and values of the context, [B, H, M, E]."""

    keys: torch.Tensor
    values: torch.Tensor


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between (`tiny`)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(
            nn.Linear(config.width, config.feed_forward),
            nn.GELU(),
            nn.Linear(config.feed_forward, config.width),
        )


def feed_forward_layer(config: GeneratorConfig, *, mixture: bool) -> nn.Module:
    """Returns what the config asks for: a mixture of experts (decoder), gated, or plain."""
    if mixture and config.experts > 1:
        return Experts(config)
    return GatedFeedForward(config) if config.gated else FeedForward(config)


class EncoderLayer(nn.Module):
    """Self-attention over the context, pre-norm."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.keys_values_heads
        self.kv_width = 2 * config.keys_width
        self.norm_attention = nn.LayerNorm(config.width)
        self.queries_keys_values = nn.Linear(config.width, config.width + self.kv_width)
        self.out = nn.Linear(config.width, config.width)
        self.norm_forward = nn.LayerNorm(config.width)
        self.forward_layer = feed_forward_layer(config, mixture=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BMD: torch.Tensor, mask_B11M: torch.Tensor | None) -> torch.Tensor:
        """Returns the layer's output [B, M, D]; positions where the mask is False are never
        attended to.
        """
        fused = self.queries_keys_values(self.norm_attention(x_BMD))
        q_BMD, kv_BMK = fused.split([x_BMD.shape[2], self.kv_width], dim=2)
        (q_BHME,) = by_head(q_BMD, 1, self.heads)
        k_BHME, v_BHME = by_head(kv_BMK, 2, self.kv_heads)
        attended = attend(q_BHME, k_BHME, v_BHME, mask_B11M)
        x_BMD = x_BMD + dropped(self, self.out(join_heads(attended)))
        out: torch.Tensor = x_BMD + dropped(self, self.forward_layer(self.norm_forward(x_BMD)))
        return out


class DecoderLayer(nn.Module):
    """Causal self-attention of each sequence, attention to the shared context, feed-forward;
    pre-norm.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.keys_values_heads
        self.kv_width = 2 * config.keys_width
        self.norm_self = nn.LayerNorm(config.width)
        self.queries_keys_values = nn.Linear(config.width, config.width + self.kv_width)
        self.out_self = nn.Linear(config.width, config.width)
        self.norm_context = nn.LayerNorm(config.width)
        self.queries = nn.Linear(config.width, config.width)
        self.context_keys_values = nn.Linear(config.width, self.kv_width)
        self.out_context = nn.Linear(config.width, config.width)
        self.norm_forward = nn.LayerNorm(config.width)
        self.forward_layer = feed_forward_layer(config, mixture=True)
        self.dropout = nn.Dropout(config.dropout)

    def context(self, memory_BMD: torch.Tensor) -> KeysValues:
        """Returns the context's keys and values [B, H, M, E], once a request."""
        return KeysValues(*by_head(self.context_keys_values(memory_BMD), 2, self.kv_heads))

    def forward(
        self,
        x_BXD: torch.Tensor,
        tokens: int,
        context: KeysValues,
        mask_B11M: torch.Tensor | None,
        past_YPK: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the output [B, X, D] of `tokens` = T new tokens a sequence, and keys and values
        [Y, P + T, K] of the tokens so far: `past_YPK` of the next call.
        """
        attended, seen_YPK = self._attend_self(self.norm_self(x_BXD), tokens, past_YPK)
        x_BXD = x_BXD + dropped(self, attended)
        (q_BHXE,) = by_head(self.queries(self.norm_context(x_BXD)), 1, self.heads)
        attended = attend(q_BHXE, *context, mask_B11M)
        x_BXD = x_BXD + dropped(self, self.out_context(join_heads(attended)))
        x_BXD = x_BXD + dropped(self, self.forward_layer(self.norm_forward(x_BXD)))
        return x_BXD, seen_YPK

    def _attend_self(
        self, x_BXD: torch.Tensor, tokens: int, past_YPK: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        width = x_BXD.shape[2]
        fused_YTC = self.queries_keys_values(x_BXD).view(-1, tokens, width + self.kv_width)
        q_YTD, seen_YPK = fused_YTC.split([width, self.kv_width], dim=2)
        mask_TP = None  # a single new token sees everything before it
        if past_YPK is not None:
            seen_YPK = torch.cat([past_YPK, seen_YPK], dim=1)
            if tokens > 1:
                length = seen_YPK.shape[1]
                mask_TP = x_BXD.new_ones(tokens, length, dtype=torch.bool).tril(length - tokens)
        (q_YHTE,) = by_head(q_YTD, 1, self.heads)
        k_YHPE, v_YHPE = by_head(seen_YPK, 2, self.kv_heads)
        attended = attend(q_YHTE, k_YHPE, v_YHPE, mask_TP, causal=past_YPK is None)
        out: torch.Tensor = self.out_self(join_heads(attended).view(x_BXD.shape))
        return out, seen_YPK


def attend(
    q_XHTE: torch.Tensor,
    k_XHPE: torch.Tensor,
    v_XHPE: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Returns attention's values [X, H, T, E]; keys and values may have fewer heads."""
    shared = k_XHPE.shape[1] != q_XHTE.shape[1]
    return F.scaled_dot_product_attention(
        q_XHTE, k_XHPE, v_XHPE, attn_mask=mask, is_causal=causal, enable_gqa=shared
    )


def dropped(layer: EncoderLayer | DecoderLayer, x_X: torch.Tensor) -> torch.Tensor:
    """Returns `x_X` through the layer's dropout, itself outside of training."""
    return F.dropout(x_X, layer.dropout.p) if layer.training else x_X


def by_head(x_XTC: torch.Tensor, parts: int, heads: int) -> tuple[torch.Tensor, ...]:
    """Returns [X, T, parts * D] as `parts` tensors [X, H, T, E]."""
    count, tokens, width = x_XTC.shape
    split = x_XTC.view(count, tokens, parts, heads, width // (parts * heads))
    return split.permute(2, 0, 3, 1, 4).unbind(0)


def join_heads(x_XHTE: torch.Tensor) -> torch.Tensor:
    """Returns [X, H, T, E] as [X, T, D]."""
    count, heads, tokens, size = x_XHTE.shape
    return x_XHTE.transpose(1, 2).reshape(count, tokens, heads * size)
