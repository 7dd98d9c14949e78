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


@pytest.mark.parametrize("count", [4, 12])
def test_of_several_windows_each_feature_brings_its_own(count):
    """A segment of two windows brings the mean; behind the clip there is none."""
    torch.manual_seed(0)
    per_window = count // 2
    projector = AudioProjector(count, SIZE, 4, HIDDEN, OUT, features_per_window=per_window)
    assert projector.up.weight.shape == (HIDDEN, SIZE + 2)
    given = features(count, lengths=[count, per_window])
    tokens, mask = projector(given)
    segment = count // 4
    for token in range(4):
        mean = given.values[0, token * segment : (token + 1) * segment].mean(dim=0)
        window = torch.tensor([1.0, 0.0] if token < 2 else [0.0, 1.0]) * SIZE**0.5
        seen = torch.cat([F.layer_norm(mean, mean.shape), window])
        hidden = F.gelu(projector.up.weight @ seen)
        torch.testing.assert_close(tokens[0, token], projector.out.weight @ hidden)
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_which_of_two_windows_a_sound_is_in_can_be_told():
    """Tokens are a set to the fusion; the control is the projector of one window, to which both orders are the same."""
    torch.manual_seed(0)
    given = features(2, batch=1)
    turned = AudioFeatures(given.values.flip(1), given.mask)
    for per_window, told in ((1, True), (None, False)):
        projector = AudioProjector(2, SIZE, 2, HIDDEN, OUT, features_per_window=per_window)
        one, other = projector(given)[0], projector(turned)[0].flip(1)
        assert torch.allclose(one, other) != told


def test_the_last_window_may_be_shorter():
    projector = AudioProjector(5, SIZE, 5, HIDDEN, OUT, features_per_window=2)
    assert projector.positions.argmax(dim=1).tolist() == [0, 0, 1, 1, 2]
    assert "positions" not in projector.state_dict()
