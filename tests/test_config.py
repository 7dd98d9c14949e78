"""The configuration: typed, frozen, every key known and read somewhere."""

import ast
import datetime
import functools
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

import safe_train
from safe_train.config import StageAConfig, build_config, known_keys, read_config_file
from safe_train.errors import InputError
from safe_train.runs.layout import read_config

PACKAGE = Path(safe_train.__file__).parent


def error_of(*args, **kwargs):
    with pytest.raises(InputError) as caught:
        build_config(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def value_of(config, dotted):
    for name in dotted.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("optimization.max_step", "optimization.max_steps"),
        ("optimisation.max_steps", "optimization"),
        ("retention.tempature", "retention.temperature"),
        ("max_steps", "optimization.max_steps"),
        ("lora_rank", "model.lora_rank"),
        ("Seed", "seed"),
        ("lr", "optimization.lr_projector' or 'optimization.lr_adapter"),
        ("optimization.lr", "optimization.lr_projector' or 'optimization.lr_adapter"),
        ("qqqq", None),
    ],
)
def test_an_unknown_key_names_the_nearest(given, nearest):
    text = error_of({}, {given: "1"})
    assert "expected a setting, got no such setting" in text
    assert text.endswith(f"did you mean '{nearest}'?" if nearest else "safe train --help-settings lists all")


PATHS = [
    "/data #2",
    "a: b",
    "[x]",
    "'q",
    "null and void",
    "1e3",
    "010",
    "no",
    "2026-01-01",
    "{a: 1}",
    "- x",
    "*x",
    "&x",
    "%",
]
"""What YAML makes something else of."""


@pytest.mark.parametrize("text", PATHS)
@pytest.mark.parametrize("key", ["data.root", "data.pack_root", "model.base_model", "output_root", "data.train_split"])
def test_text_is_taken_as_it_is(key, text):
    assert value_of(build_config({}, {key: text}), key) == text


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("data.pack_root", "null", None), ("data.cache_root", "~", None), ("data.root", "'/data #2'", "/data #2"),
        ("data.root", '"a\\u00e9"', "aé"), ("data.root", "null", "null"), ("seed", "010", 10), ("seed", "+3", 3),
        ("optimization.max_steps", "0400", 400), ("data.max_train_vl", "null", None), ("data.max_train_vl", "010", 10),
        ("optimization.lr_adapter", "1e-3", 1e-3), ("evaluation.conditions", "[silence, loud]", ("silence", "loud")),
        ("model.gradient_checkpointing", "yes", True), ("model.audio_level_db", "null", None),
    ],
)  # fmt: skip
def test_a_value_on_the_command_line_is_what_it_reads_as(key, text, value):
    assert value_of(build_config({}, {key: text}), key) == value


@pytest.mark.parametrize("text", ["1" * 5_000, "[" * 5_000, "0x", "!!python/object:os.system x", "!!int x"])
@pytest.mark.parametrize("key", ["seed", "evaluation.conditions", "data.text_ratio"])
def test_a_value_that_is_none_is_one_line(key, text):
    assert key in error_of({}, {key: text})


def test_the_configuration_of_a_run_is_a_file_of_settings(tmp_path):
    """Of an earlier version, too, whose runs did not do what is the default now."""
    path = tmp_path / "config.json"
    config = build_config({}, {"seed": "7", "data.root": "/data #2"})
    described = config.model_dump(mode="json") | {"effective": {}, "versions": {}, "notes": {}, "job": "17"}
    path.write_text(json.dumps(described))
    assert build_config(read_config_file(path), {}) == config == read_config(tmp_path)
    del described["model"]["audio_level_db"], described["data"]["train_text_source"]
    path.write_text(json.dumps(described))
    older = build_config(read_config_file(path), {})
    assert (older.model.audio_level_db, older.data.train_text_source) == (None, "none")


def test_the_example_holds_settings():
    values = read_config_file(PACKAGE.parent / "examples" / "settings.yaml")
    config = build_config(values, {})
    assert config.evaluation.conditions == ("silence", "distractor", "loud", "noise")
    assert config.optimization == StageAConfig().optimization


@pytest.mark.parametrize("content", [b"\xff\xfe\xfd", b"[" * 100_000, b"a: &a [*a", b"- 1", b"", b"a: " + b"1" * 5_000])
def test_a_file_that_holds_no_settings_is_one_line(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        build_config(read_config_file(tmp_path / "a.yaml"), {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "name", "nearest"),
    [("variant", "ful_retention", "full_retention"), ("model.config", "demmo", "demo")],
)
def test_an_unknown_name_names_the_nearest(key, name, nearest):
    text = error_of({}, {key: name})
    assert text.startswith(f"{key}: expected one of ")
    assert f"did you mean {nearest!r}?" in text


@pytest.mark.parametrize(
    ("text", "dotted", "value"),
    [
        ("1e-3", "optimization.lr_adapter", 1e-3),
        ("0.002", "optimization.lr_adapter", 2e-3),
        ("7", "seed", 7),
        ("null", "evaluation.max_vl", None),
        ("false", "retention.null_space_one_sided", False),
        ("[embedded, /models/clap]", "model.audio_encoders", ("embedded", "/models/clap")),
        ("bf16", "precision", "bf16"),
        ("'what is that: a dog?'", "data.audio_question", "what is that: a dog?"),
        ("runs/1e3", "output_root", "runs/1e3"),
        ("1e3", "output_root", "1e3"),
        ("nan", "output_root", "nan"),
    ],
)
def test_assignments_are_read_as_yaml(text, dotted, value):
    found = value_of(build_config({}, {dotted: text}), dotted)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[", "{a: ", "'open", "a: b: c", "\t%"])
def test_an_assignment_that_is_no_yaml(text):
    assert error_of({}, {"data.gains_db": text}).startswith("--set data.gains_db: expected a YAML value, got ")


@pytest.mark.parametrize(
    ("dotted", "text"),
    [
        ("seed", "many"),
        ("seed", "-1"),
        ("optimization.max_steps", "0"),
        ("optimization.adam_beta1", "1.0"),
        ("optimization.lr_adapter", "nan"),
        ("data.image_prob", "1.5"),
        ("precision", "fp16"),
        ("retention.divergence", "kl"),
        ("model", "demo"),
        ("retention.null_space_energy", "0"),
        ("retention.null_space_memory_gib", "0"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_key(dotted, text):
    assert error_of({}, {dotted: text}, "settings.yaml").startswith(f"settings.yaml: {dotted}: expected ")


def test_a_value_where_a_section_should_be():
    assert "a section before the dot" in error_of({"seed": 1}, {"seed.x": "1"})


def test_one_sided_needs_the_gradient_subspace():
    text = error_of({"retention": {"null_space_subspace": "activation"}}, {})
    assert "null_space_one_sided needs null_space_subspace=gradient" in text


def test_options_win_over_assignments_and_these_over_the_file():
    values = {"seed": 1, "variant": "no_retention", "optimization": {"max_steps": 1, "beta1": 0.5}}
    config = build_config(values, {"seed": "2", "optimization.max_steps": "2"}, options={"optimization.max_steps": 3})
    assert (config.variant, config.seed, config.optimization.max_steps) == ("no_retention", 2, 3)
    assert config.optimization.adam_beta1 == 0.5
    assert values["optimization"] == {"max_steps": 1, "beta1": 0.5}  # what was given is left alone


def test_options_are_taken_as_they_are():
    assert build_config({}, {}, options={"output_root": "null"}).output_root == "null"


@pytest.mark.parametrize("dotted", known_keys())
def test_every_setting_is_frozen(dotted):
    config = StageAConfig()
    *sections, name = dotted.split(".")
    for section in sections:
        config = getattr(config, section)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, name, getattr(config, name))


@pytest.mark.parametrize(
    "assignments",
    [
        {},
        {"variant": "no_retention", "optimization.lr_adapter": "1e-3", "model.audio_encoders": "[a, b]"},
        {"evaluation.max_vl": "null", "retention.null_space_energy": "0.9", "data.root": "ä/ö ü"},
    ],
)
def test_a_run_s_configuration_is_read_back_the_same(tmp_path, assignments):
    config = build_config({}, assignments)
    written = config.model_dump(mode="json") | {"effective": {"a": 1}, "versions": {"torch": "2"}}
    (tmp_path / "config.json").write_text(json.dumps(written), encoding="utf-8")
    assert read_config(tmp_path) == config


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"seed": "x"}', b'{"sead": 1}'])
def test_a_damaged_run_configuration_is_told_in_one_line(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_config(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yaml", "seed: 7\noptimization:\n  lr_adapter: 1e-3\n"),
        ("a.json", '{"seed": 7, "optimization": {"lr_adapter": 1e-3}}'),
    ],
)
def test_settings_from_a_file(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    config = build_config(read_config_file(tmp_path / name), {})
    assert (config.seed, config.optimization.lr_adapter) == (7, 1e-3)


@pytest.mark.parametrize("content", [b"", b"- a\n", b"7", b"a: [", b"\xff\xfe\xfa"])
def test_a_file_without_settings(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_config_file(path)
    assert str(caught.value).startswith(f"{path}: expected a ")
    assert "\n" not in str(caught.value)


def test_a_file_of_settings_cannot_run_code(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("seed: !!python/object/apply:os.getpid []\n")
    with pytest.raises(InputError, match="python/object"):
        read_config_file(path)


def test_a_date_in_a_file_is_a_wrong_value_and_not_a_crash():
    assert "output_root: expected a valid string" in error_of({"output_root": datetime.date(2026, 1, 1)}, {})


@functools.cache
def attributes_read(folder):
    """Every name that some file but the configuration's own reads as an attribute."""
    files = [
        path for path in folder.rglob("*.py") if path not in (folder / "config.py", folder / "config_reference.py")
    ]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


@pytest.mark.parametrize("dotted", known_keys())
def test_every_setting_has_a_reader(dotted):
    assert dotted.rpartition(".")[2] in attributes_read(PACKAGE)


def test_a_setting_without_a_reader_would_be_found(tmp_path):
    """Negative control: names that are only written or only spelled in text do not count."""
    (tmp_path / "user.py").write_text('config.used\nconfig.written = 1\n"config.spelled"\n')
    assert attributes_read(tmp_path) == {"used"}
