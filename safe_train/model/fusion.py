"""Gated cross-attention: how a decoder layer's hidden states read the audio tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GatedCrossAttention(nn.Module):
    """``update(h) = W_o softmax(q k^T / sqrt(d)) v``, queries from the hidden states h, keys and values from audio a.

    ``q = W_q norm(h)``, ``k = W_k norm(a)``, ``v = W_v norm(a)``.

    The caller adds ``gate * update(h)`` to the hidden states. ``W_o`` is zero at initialization, so the fusion has no
    effect before training. The normalizations have no parameters and there are no biases: every trained parameter is
    the matrix of a linear layer.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``.
    """

    def __init__(self, hidden_size: int, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"fusion_dim must be a multiple of the {num_heads} heads, got {dim}")
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, dim, bias=False)
        self.key = nn.Linear(hidden_size, dim, bias=False)
        self.value = nn.Linear(hidden_size, dim, bias=False)
        self.output = nn.Linear(dim, hidden_size, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, hidden: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Update [B, T, H] for hidden states [B, T, H], audio tokens [B, k, H] and their mask, bool [B, k].

        An example whose mask is False everywhere has nothing to attend to; its update is exactly zero.
        """
        batch, length, width = hidden.shape
        normalized = F.rms_norm(hidden.to(self.query.weight.dtype), (width,))
        audio = F.rms_norm(tokens, (width,))
        query, key, value = (
            projection(states).view(batch, states.shape[1], self.num_heads, -1).transpose(1, 2)
            for projection, states in ((self.query, normalized), (self.key, audio), (self.value, audio))
        )
        heard = mask.any(dim=1)
        # Softmax over nothing is NaN, so a row without audio attends freely and its update is dropped below.
        visible = (mask | ~heard[:, None])[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        update = self.output(attended.transpose(1, 2).reshape(batch, length, -1))
        return torch.where(heard[:, None, None], update, torch.zeros_like(update)).to(hidden.dtype)
