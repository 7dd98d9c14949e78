"""Settings that name a data set: the registry says what they may be."""

import pytest
from pydantic import ValidationError

from safe_train.config import build_config
from safe_train.data.settings import DataSettings
from safe_train.errors import InputError

CHOICES = {
    "train_audio_source": ["audiocaps", "wavcaps", "avqa", "pack", "embedded"],
    "val_audio_source": ["audiocaps", "wavcaps", "avqa", "pack", "embedded", "trained"],
    "train_vl_source": ["vqa", "pack", "embedded"],
    "val_vl_source": ["vqa", "pack", "embedded"],
    "train_text_source": ["auto", "text", "pack", "embedded", "none"],
    "val_text_source": ["auto", "text", "pack", "embedded", "none"],
}


@pytest.mark.parametrize("setting", CHOICES)
def test_every_choice_is_taken_and_nothing_else(setting):
    for name in CHOICES[setting]:
        assert getattr(DataSettings.model_validate({setting: name, "pack_root": "/pack"}), setting) == name
    for other in ("Vqa", "", "clip", None, 3):
        with pytest.raises(ValidationError):
            DataSettings.model_validate({setting: other, "pack_root": "/pack"})


@pytest.mark.parametrize("setting", CHOICES)
def test_the_schema_lists_the_choices(setting):
    assert DataSettings.model_json_schema()["properties"][setting]["enum"] == CHOICES[setting]


@pytest.mark.parametrize(
    ("setting", "given", "hint"),
    [
        ("train_audio_source", "audio_caps", "did you mean 'audiocaps'?"),
        ("val_audio_source", "train", "did you mean 'trained'?"),
        ("train_vl_source", "vqav2", "did you mean 'vqa'?"),
        ("val_text_source", "nothing", "choose one of them"),
    ],
)
def test_an_unknown_name_is_told_with_the_choices_and_the_nearest(setting, given, hint):
    with pytest.raises(InputError) as caught:
        build_config({}, {f"data.{setting}": given}, "command line")
    choices = ", ".join(CHOICES[setting])
    assert str(caught.value) == f"command line: data.{setting}: expected one of {choices}, got {given!r}; {hint}"


@pytest.mark.parametrize("setting", CHOICES)
def test_a_source_in_a_pack_needs_the_pack(setting):
    with pytest.raises(InputError, match=r"the source pack needs data\.pack_root, the folder of a pack"):
        build_config({}, {f"data.{setting}": "pack"})
