"""The transformer layers: encoder, and decoder whose sequences share one context.

Legend: B requests, M context positions, Q sequences of one request (candidates or beams), T new
tokens of each, P tokens before them, H heads, E width of a head, D width, K = 2 D (keys beside
values). K and V of the context are made once a request; the Q sequences stand on the query axis of
one attention call and are never replicated along the context.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from models.generator.config import GeneratorConfig


class KeysValues(NamedTuple):
    """Keys and values of the context, [B, H, M, E]."""

    keys: torch.Tensor
    values: torch.Tensor


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between (dense; experts take its place in larger presets)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(
            nn.Linear(config.width, config.feed_forward),
            nn.GELU(),
            nn.Linear(config.feed_forward, config.width),
        )


class EncoderLayer(nn.Module):
    """Self-attention over the context, pre-norm."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(config.width)
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm_forward = nn.LayerNorm(config.width)
        self.forward_layer = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BMD: torch.Tensor, mask_BM: torch.Tensor | None) -> torch.Tensor:
        """Returns the layer's output [B, M, D]; positions where `mask_BM` is False are never
        attended to.
        """
        fused = self.queries_keys_values(self.norm_attention(x_BMD))
        q_BHME, k_BHME, v_BHME = split_parts(fused, 3, self.heads)
        attended = F.scaled_dot_product_attention(
            q_BHME, k_BHME, v_BHME, attn_mask=over_keys(mask_BM)
        )
        x_BMD = x_BMD + self.dropout(self.out(join_heads(attended)))
        out: torch.Tensor = x_BMD + self.dropout(self.forward_layer(self.norm_forward(x_BMD)))
        return out


class DecoderLayer(nn.Module):
    """Causal self-attention of each sequence, attention to the shared context, feed-forward;
    pre-norm.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_self = nn.LayerNorm(config.width)
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width)
        self.out_self = nn.Linear(config.width, config.width)
        self.norm_context = nn.LayerNorm(config.width)
        self.queries = nn.Linear(config.width, config.width)
        self.context_keys_values = nn.Linear(config.width, 2 * config.width)
        self.out_context = nn.Linear(config.width, config.width)
        self.norm_forward = nn.LayerNorm(config.width)
        self.forward_layer = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def context(self, memory_BMD: torch.Tensor) -> KeysValues:
        """Returns the context's keys and values [B, H, M, E], once a request."""
        return KeysValues(*split_parts(self.context_keys_values(memory_BMD), 2, self.heads))

    def forward(
        self,
        x_BQTD: torch.Tensor,
        context: KeysValues,
        mask_BM: torch.Tensor | None,
        past_BQPK: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the output [B, Q, T, D], and keys and values [B, Q, P + T, 2 D] of the tokens so
        far: `past_BQPK` of the next call.
        """
        attended, seen_BQPK = self._attend_self(self.norm_self(x_BQTD), past_BQPK)
        x_BQTD = x_BQTD + self.dropout(attended)
        attended = self._attend_context(self.norm_context(x_BQTD), context, mask_BM)
        x_BQTD = x_BQTD + self.dropout(attended)
        x_BQTD = x_BQTD + self.dropout(self.forward_layer(self.norm_forward(x_BQTD)))
        return x_BQTD, seen_BQPK

    def _attend_self(
        self, x_BQTD: torch.Tensor, past_BQPK: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        width = x_BQTD.shape[-1]
        fused = self.queries_keys_values(x_BQTD)
        seen_BQPK = fused[..., width:]
        if past_BQPK is not None:
            seen_BQPK = torch.cat([past_BQPK, seen_BQPK], dim=2)
        (q,) = split_parts(fused[..., :width].flatten(0, 1), 1, self.heads)
        k, v = split_parts(seen_BQPK.flatten(0, 1), 2, self.heads)
        mask_TX = None  # a single new token sees everything before it
        if (new := q.shape[-2]) > 1:
            mask_TX = torch.ones(new, k.shape[-2], dtype=torch.bool).tril(k.shape[-2] - new)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_TX)
        joined = join_heads(attended).unflatten(0, x_BQTD.shape[:2])
        out: torch.Tensor = self.out_self(joined)
        return out, seen_BQPK

    def _attend_context(
        self, x_BQTD: torch.Tensor, context: KeysValues, mask_BM: torch.Tensor | None
    ) -> torch.Tensor:
        (q_BHXE,) = split_parts(self.queries(x_BQTD).flatten(1, 2), 1, self.heads)
        attended = F.scaled_dot_product_attention(
            q_BHXE, context.keys, context.values, attn_mask=over_keys(mask_BM)
        )
        joined = join_heads(attended).unflatten(1, x_BQTD.shape[1:3])
        out: torch.Tensor = self.out_context(joined)
        return out


def over_keys(mask_BM: torch.Tensor | None) -> torch.Tensor | None:
    """Returns the context's mask as attention takes it, [B, 1, 1, M]; None where nothing is
    padding.
    """
    return None if mask_BM is None else mask_BM[:, None, None, :]


def split_parts(x_XTC: torch.Tensor, parts: int, heads: int) -> tuple[torch.Tensor, ...]:
    """Returns [..., T, parts * D] as `parts` tensors [..., H, T, E]."""
    x_XTPHE = x_XTC.reshape(*x_XTC.shape[:-1], parts, heads, -1)
    return x_XTPHE.transpose(-4, -2).unbind(-3)


def join_heads(x_XHTE: torch.Tensor) -> torch.Tensor:
    """Returns [..., H, T, E] as [..., T, D]."""
    joined: torch.Tensor = x_XHTE.transpose(-3, -2).flatten(-2)
    return joined
