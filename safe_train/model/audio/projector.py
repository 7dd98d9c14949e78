"""The projector: maps audio features to audio tokens of the decoder's width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safe_train.errors import InputError
from safe_train.model.audio.encoder import AudioFeatures


class AudioProjector(nn.Module):
    """Maps features [B, F, D] to ``k`` audio tokens [B, k, H].

    With more features than tokens, neighboring features are averaged into ``k`` segments (without padding) and each
    segment becomes one token; with fewer, each feature becomes ``k / F`` tokens:

        tokens = W_n gelu(... W_2 gelu(W_1 norm(feature)))

    ``norm`` is a layer normalization without parameters. The linear maps have no biases, so that every trained
    parameter is a matrix. Of a clip that is heard in several windows, a model's features tell where in a window they
    are but not in which: ``sqrt(D)`` at the place of their window (as long as the normalized feature, the mean over a
    segment) stands behind each.

    Raises:
        InputError: there are fewer features than tokens and F does not divide ``k``.
    """

    positions: Tensor

    def __init__(
        self,
        num_features: int,
        feature_size: int,
        num_tokens: int,
        hidden: int,
        out_size: int,
        num_layers: int = 2,
        features_per_window: int | None = None,
    ) -> None:
        """Takes F, D, k, the width of the hidden layers, H, the number of linear maps, at least 2, and F of a window.

        The last is None if there is one window.
        """
        super().__init__()
        self.segments = min(num_features, num_tokens)
        if num_tokens % self.segments:
            expected, hint = f"a multiple of {num_features} features", "choose another, or raise model.audio_seconds"
            raise InputError("model.num_audio_tokens", expected, str(num_tokens), hint)
        self.out_size = out_size
        windows = torch.arange(num_features) // (features_per_window or num_features)
        positions = F.one_hot(windows).float() * feature_size**0.5
        self.register_buffer("positions", positions if positions.shape[1] > 1 else positions[:, :0], persistent=False)
        self.up = nn.Linear(feature_size + self.positions.shape[1], hidden, bias=False)
        self.out = nn.Linear(hidden, num_tokens // self.segments * out_size, bias=False)
        self.between = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(num_layers - 2))

    def forward(self, features: AudioFeatures) -> tuple[Tensor, Tensor]:
        """Audio tokens [B, k, H] and their mask, bool [B, k]."""
        mask = features.mask
        # Filled, since a product (here, or of an attention weight of zero) would let NaN and infinity through.
        values, size = features.values, features.values.shape[-1]
        if self.positions.shape[1]:
            values = torch.cat([values, self.positions.expand(len(mask), -1, -1)], dim=-1)
        values = values.masked_fill(~mask[..., None], 0.0)
        if values.shape[1] > self.segments:
            kept = F.adaptive_avg_pool1d(mask.to(values.dtype)[:, None], self.segments)
            summed = F.adaptive_avg_pool1d(values.transpose(1, 2), self.segments)
            values, mask = (summed / kept.clamp_min(1e-6)).transpose(1, 2), kept[:, 0] > 0
        normed = F.layer_norm(values[..., :size], (size,))
        hidden = F.gelu(self.up(torch.cat([normed, values[..., size:]], dim=-1) if self.positions.shape[1] else normed))
        for linear in self.between:
            hidden = F.gelu(linear(hidden))
        tokens = self.out(hidden)
        tokens = tokens.view(values.shape[0], -1, self.out_size)
        return tokens, mask.repeat_interleave(tokens.shape[1] // mask.shape[1], dim=1)
