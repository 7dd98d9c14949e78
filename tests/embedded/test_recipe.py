"""The recipe runs, gives the same bits twice, and what it writes loads as a base and an audio encoder."""

import pytest
import torch

from safe_train.embedded.recipe import make_audio_encoder, make_base
from safe_train.embedded.train_audio import AudioRecipe
from safe_train.embedded.train_base import BaseRecipe
from safe_train.model import load_audio_encoder, load_base

AUDIO = AudioRecipe(num_clips=20, epochs=1, batch_size=10)
BASE = BaseRecipe(num_scenes=24, batch_size=4, vision_steps=2, answer_steps=15, questions_per_image=4)


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_base_comes_out_the_same_twice(tmp_path):
    states = []
    for name in ("first", "second"):
        make_base(tmp_path / name, BASE)
        states.append(load_base(str(tmp_path / name)).model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_audio_encoder_comes_out_the_same_twice(tmp_path):
    states = []
    for name in ("first", "second"):
        make_audio_encoder(tmp_path / name, AUDIO)
        states.append(load_audio_encoder(str(tmp_path / name)).model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
