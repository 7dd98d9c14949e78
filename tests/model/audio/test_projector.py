"""The projector: how features become tokens, by means and layouts that are written out here."""

import pytest
import torch
import torch.nn.functional as F

from safe_train.errors import InputError
from safe_train.model.audio.encoder import AudioFeatures
from safe_train.model.audio.projector import AudioProjector

SIZE, HIDDEN, OUT = 6, 8, 10


def features(count, batch=2, lengths=None):
    values = torch.randn(batch, count, SIZE, generator=torch.Generator().manual_seed(count))
    lengths = lengths or [count] * batch
    mask = torch.stack([torch.arange(count) < length for length in lengths])
    return AudioFeatures(values, mask)


def tokens_of(projector, feature):
    """The tokens [n, OUT] of one feature, by the definition."""
    hidden = F.gelu(projector.up.weight @ F.layer_norm(feature, feature.shape))
    return (projector.out.weight @ hidden).view(-1, OUT)


def test_fewer_features_than_tokens_become_several_tokens_each():
    projector, given = AudioProjector(2, SIZE, 6, HIDDEN, OUT), features(2, lengths=[2, 1])
    tokens, mask = projector(given)
    assert tokens.shape == (2, 6, OUT)
    expected = torch.cat([tokens_of(projector, feature) for feature in given.values[0]])
    torch.testing.assert_close(tokens[0], expected)
    assert mask.tolist() == [[True] * 6, [True] * 3 + [False] * 3]


def test_more_features_than_tokens_are_averaged_in_segments_without_the_padding():
    projector, given = AudioProjector(8, SIZE, 4, HIDDEN, OUT), features(8, lengths=[8, 3])
    tokens, mask = projector(given)
    means = given.values[0].view(4, 2, SIZE).mean(dim=1)
    torch.testing.assert_close(tokens[0], torch.cat([tokens_of(projector, mean) for mean in means]))
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]
    torch.testing.assert_close(tokens[1, :1], tokens_of(projector, given.values[1, :2].mean(dim=0)))
    torch.testing.assert_close(tokens[1, 1:2], tokens_of(projector, given.values[1, 2]))  # its neighbor is padding


def test_what_lies_in_the_padding_does_not_matter():
    projector, given = AudioProjector(8, SIZE, 4, HIDDEN, OUT), features(8, lengths=[8, 3])
    spoiled = AudioFeatures(given.values.masked_fill(~given.mask[..., None], float("nan")), given.mask)
    assert torch.equal(projector(spoiled)[0], projector(given)[0])


def test_a_count_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"model\.num_audio_tokens: expected a multiple of 4 features, got 6"):
        AudioProjector(4, SIZE, 6, HIDDEN, OUT)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_more_layers_lie_between_the_first_and_the_last(count):
    torch.manual_seed(0)
    projector, given = AudioProjector(2, SIZE, 4, HIDDEN, OUT, count), features(2)
    weights = [module.weight for module in projector.modules() if isinstance(module, torch.nn.Linear)]
    assert len(weights) == count
    hidden = F.layer_norm(given.values, (SIZE,))
    for weight in (projector.up.weight, *(linear.weight for linear in projector.between)):
        hidden = F.gelu(hidden @ weight.T)
    expected = (hidden @ projector.out.weight.T).view(2, 4, OUT)
    torch.testing.assert_close(projector(given)[0], expected)
