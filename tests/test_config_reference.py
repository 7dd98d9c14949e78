"""The list of settings says of each what pydantic accepts."""

import json
from typing import ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from safe_train.config import StageAConfig, build_config, known_keys
from safe_train.config_reference import format_settings, list_settings
from safe_train.configs.retention_variants import RETENTION_VARIANTS
from safe_train.errors import InputError
from safe_train.settings import Section

SETTINGS = {setting.name: setting for setting in list_settings()}


class Example(Section):
    earlier_names: ClassVar = {"number": "count"}

    count: int = Field(default=3, ge=1)
    """How many."""
    share: float | None = Field(default=None, gt=0.0, le=0.5)
    flag: bool = False
    names: tuple[str, ...] = ()
    modes: tuple[Literal["a", "b"], ...] | None = None
    mode: Literal["fast", "slow"] = "fast"
    source: Literal["x", "y"] | Literal["z"] | None = None
    label: str | None = Field(default=None, pattern="^[a-z]+$")


def test_types_bounds_choices_defaults_and_meanings_in_words():
    listed = {setting.name: setting for setting in list_settings(Example)}
    assert {name: (setting.allowed, setting.default) for name, setting in listed.items()} == {
        "count": ("integer, at least 1", "3"),
        "share": ("number, above 0 and at most 0.5 or null", "null"),
        "flag": ("true or false", "false"),
        "names": ("list of text", "[]"),
        "modes": ("list of a | b or null", "null"),
        "mode": ("fast | slow", '"fast"'),
        "source": ("x | y | z | null", "null"),
        "label": ("text, matching ^[a-z]+$ or null", "null"),
    }
    assert listed["count"].meaning == "How many."
    assert listed["count"].earlier_names == ("number",)
    assert listed["share"].earlier_names == ()


def value_of(name):
    value = StageAConfig()
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", known_keys())
def test_every_setting_has_its_default_and_a_meaning(name):
    assert json.loads(SETTINGS[name].default) == json.loads(json.dumps(value_of(name)))
    assert SETTINGS[name].meaning.endswith(".")


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.choices])
def test_choices_are_accepted_and_nothing_else(name):
    for choice in SETTINGS[name].choices:
        pack = {} if choice != "pack" else {"data.pack_root": "somewhere"}
        one_sided = {"retention.null_space_one_sided": "false"} if choice == "activation" else {}
        build_config({}, {name: choice} | pack | one_sided)
    with pytest.raises(InputError):
        build_config({}, {name: "nothing of the kind"})


BOUNDED = [name for name, setting in SETTINGS.items() if any(word in setting.kind for word in ("at least", "above"))]


@pytest.mark.parametrize("name", BOUNDED)
def test_the_lower_bound_is_where_values_are_refused(name):
    words = SETTINGS[name].kind.replace(",", "").split()
    place = words.index("least" if "least" in words else "above")
    bound = float(words[place + 1])
    below = bound - 1 if "least" in words else bound
    with pytest.raises(InputError, match=name):
        build_config({}, {name: f"{below:g}"})


def test_registered_names_are_choices():
    assert SETTINGS["variant"].choices == tuple(RETENTION_VARIANTS)


def test_data_sets_are_choices():
    assert {"auto", "text", "embedded", "none"} <= set(SETTINGS["data.train_text_source"].choices)
    assert {"audiocaps", "wavcaps", "avqa", "trained"} <= set(SETTINGS["data.val_audio_source"].choices)


def test_a_line_each():
    lines = format_settings().splitlines()
    assert [line.split(" = ")[0] for line in lines] == known_keys()
    assert (
        'model.quantization = "none"    (none | 4bit | 8bit) Weights of the frozen base in fewer bits, by the extra '
        "``bitsandbytes``, on a GPU." in lines
    )
    assert "optimization.max_steps = 400    (integer, at least 1) Optimizer steps." in lines


def test_a_null_is_accepted_exactly_where_it_is_said():
    """Negative control of the words: pydantic itself is asked."""
    for name, setting in SETTINGS.items():
        *sections, last = name.split(".")
        model = StageAConfig
        for section in sections:
            model = model.model_fields[section].annotation
        try:
            model.model_validate({last: None})
            accepted = True
        except ValidationError:
            accepted = False
        assert accepted == setting.is_optional, name
