"""The commands: what they print, and that bad input ends in one line, exit code 2 and nothing written."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from safe_train.cli import safe, train
from safe_train.cli.evaluate import _say_control
from safe_train.config import known_keys
from safe_train.embedded import weights

ROOT = Path(__file__).parents[2]
TINY_RUN = (
    "--variant", "no_retention", "--max-steps", "2", "--set", "evaluation.max_vl=4", "--set", "evaluation.max_audio=4",
    "--set", "optimization.audio_batch_size=40", "--set", "data.image_prob=1",
)  # fmt: skip


def invoke(*arguments, command=safe):
    """The result of a command; an exception that is no exit is a failure of the test."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def refused(*arguments, command=safe):
    """The one line with which bad input is refused."""
    result = invoke(*arguments, command=command)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1:] == errors, result.stderr
    return errors[0]


def in_subprocess(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from safe_train.cli import safe; safe(prog_name='safe')", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """An output root, and the promise that a refused command leaves nothing there."""
    folder = tmp_path / "runs"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def own_data(small_data, tmp_path):
    """Data that a test may damage."""
    return Path(shutil.copytree(small_data, tmp_path / "data"))


# --- usage


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "safe trian: expected a command, got no such command; did you mean 'train'?"),
        (["data", "chek"], "safe data chek: expected a command, got no such command; did you mean 'check'?"),
        (["qqqq"], "known are ask, container, data, env, eval, export, report, rerun-step, train, variants"),
        (["--verbos"], "safe --verbos: expected an option, got no such option; "),
        (["train", "--varient", "x"], "safe train --varient: expected an option, got no such option; did you mean "),
        (["eval", "run", "--max-vll", "3"], "did you mean '--max-vl'?"),
        (["data", "check", ".", "--splits", "val"], "did you mean '--split'?"),
        (["train", "--seed", "x"], "safe train: Invalid value for '--seed': 'x' is not a valid integer; see safe "),
        (["train", "--seed"], "'--seed' requires an argument"),
        (["train", "surplus"], "unexpected extra argument (surplus)"),
        (["eval"], "Missing argument 'RUN'"),
        (["eval", "run", "--max-vl", "0"], "Invalid value for '--max-vl'"),
        (["ask", "run"], "Missing argument 'QUESTION'"),
        (["train", "--variant", "ful_retention"], "got 'ful_retention'; did you mean 'fu"),
        (["train", "--set", "seed"], "--set seed: expected key=value, got no =; for instance "),
        (["train", "--set", "optimization.max_step=3"], "did you mean 'optimization.max_steps'?"),
        (["train", "--set", "data.gains_db=["], "--set data.gains_db: expected a YAML value, got '['"),
        (["train", "--max-steps", "0"], "optimization.max_steps: expected greater than or equal to 1, got 0"),
        (["train", "--model-config", "dmo"], "did you mean 'demo'?"),
        (["train", "--config", "/no/such.yaml"], "/no/such.yaml: expected a readable YAML or JSON file"),
        (["train", "--resume", "/no/such", "--seed", "3"], "--resume: expected no other settings"),
        (["train", "--resume", "/no/such", "--set", "seed=3"], "--resume: expected no other settings"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(arguments, expected):
    assert expected in refused(*arguments)


def test_the_train_command_by_itself_says_the_same():
    assert "did you mean '--variant'?" in refused("--varient", "x", command=train)


def test_the_shell_sees_one_line_and_exit_code_2():
    finished = in_subprocess("train", "--varient", "x")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == (
        "error: safe train --varient: expected an option, got no such option; did you mean '--variant'?\n"
    )


@pytest.mark.parametrize("command", [safe, train], ids=["safe", "safe-train"])
def test_both_commands_tell_their_version_and_help(command):
    assert invoke("--version", command=command).stdout == f"safe-audio {version('safe-audio')}\n"
    for option in ("-h", "--help"):
        assert invoke(option, command=command).stdout.startswith("Usage: ")


def test_a_source_tree_that_is_not_installed_has_no_version(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("safe_train.cli.options.version", missing)
    assert invoke("--version").stdout == "safe-audio, a source tree that is not installed\n"


@pytest.mark.parametrize("group", [safe, safe.commands["data"]], ids=["safe", "safe data"])
def test_no_sentence_of_the_help_is_cut(group):
    """At 80 columns; click ends what it cuts in three dots."""
    told = CliRunner().invoke(group, ["--help"], terminal_width=80).stdout
    shown = {name for name, command in group.commands.items() if not command.hidden}
    assert shown <= {line.split()[0] for line in told.splitlines() if line.strip()}
    assert "..." not in told.split("Commands:")[1]


@pytest.mark.parametrize(
    ("variable", "words", "expected"),
    [
        ("_SAFE_COMPLETE", "safe train --variant f", ["fisher_retention", "full_retention", "fisher_only"]),
        ("_SAFE_COMPLETE", "safe train --gpu h", ["h100", "h200"]),
        ("_SAFE_COMPLETE", "safe data ch", ["check"]),
        ("_SAFE_TRAIN_COMPLETE", "safe-train --model-config d", ["demo"]),
    ],
)
def test_the_shell_completes(variable, words, expected):
    command, name = (train, "safe-train") if "TRAIN" in variable else (safe, "safe")
    asked = {variable: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    found = CliRunner().invoke(command, [], prog_name=name, env=asked).stdout.split()
    assert set(found) >= {f"plain,{word}" for word in expected}  # a registry may hold more
    assert all(word.startswith(f"plain,{words.split()[-1]}") for word in found)


def test_console_scripts_point_to_the_commands():
    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    assert scripts["safe"].load() is safe
    assert scripts["safe-train"].load() is train


HEAVY = ("torch", "transformers", "numpy", "pydantic", "PIL", "rich")


def heavy_imports_of(arguments):
    """Which of the heavy libraries a command imports in a fresh interpreter."""
    code = (
        "import sys\nfrom safe_train.cli import safe\n"
        f"try:\n    safe({arguments})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return finished.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["data", "-h"], ["variants"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    assert heavy_imports_of(arguments) == []


def test_that_check_sees_a_heavy_import():
    """Negative control: the list of settings is made by pydantic."""
    assert heavy_imports_of(["train", "--help-settings"]) == ["pydantic"]


def test_settings_are_listed():
    listed = invoke("train", "--help-settings").stdout.splitlines()
    assert [line.split(" = ")[0] for line in listed] == known_keys()


# --- bad input to a run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data-root", "/no/such"], "/no/such: expected a data root, got no such folder"),
        (["--base-model", "/no/such"], "/no/such: expected the folder of the vision-language model, got no such "),
        (["--device", "cuda:99"], "device: expected a CUDA device that exists"),
        (["--device", "mps"], "device: expected auto, cpu, cuda or cuda:N, got 'mps'"),
        (["--device", "gpu"], "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--set", "model.fusion_heads=5"], "model.fusion_heads: expected a divisor of the fusion's width 128, got 5"),
        (["--set", "model.fusion_layers=9"], "model.fusion_layers: expected at most 3 decoder layers, got 9"),
        (["--set", "evaluation.max_audio=1"], "distractors: expected at least two different clips, got 1"),
        (["--set", "data.val_split=test"], "name a split other than 'test'"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be(runs, small_data, arguments, expected):
    data = [] if "--data-root" in arguments else ["--data-root", small_data]
    assert expected in refused("train", *TINY_RUN, "--output-root", runs, *data, *arguments)


@pytest.mark.parametrize("content", [(), ("vqa",), ("audiocaps",)], ids=["nothing", "vqa alone", "audiocaps alone"])
def test_an_empty_data_root(runs, tmp_path, content):
    (tmp_path / "empty").mkdir()
    for name in content:
        (tmp_path / "empty" / name).mkdir()
    assert str(tmp_path / "empty") in refused("train", "--output-root", runs, "--data-root", tmp_path / "empty")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("pattern", ["vqa/{}2014/*.png", "audiocaps/audio/{}/*.wav"])
def test_a_file_that_cannot_be_read(runs, own_data, pattern, split):
    """Also one that is only met in training: what the run has written before its first checkpoint goes again."""
    for path in own_data.glob(pattern.format(split)):
        path.write_bytes(path.read_bytes()[:100])
    line = refused("train", *TINY_RUN, "--output-root", runs, "--data-root", own_data)
    assert str(own_data / pattern.format(split).split("*")[0]) in line
    assert "expected" in line


def test_questions_without_answers(runs, own_data):
    (own_data / "vqa" / "v2_mscoco_val2014_annotations.json").unlink()
    assert "expected the annotations of the questions" in refused(
        "train", *TINY_RUN, "--output-root", runs, "--data-root", own_data
    )


@pytest.mark.parametrize(
    ("option", "source"), [("--base-model", weights.base_folder()), ("--audio-encoder", weights.audio_encoder_folder())]
)
def test_a_model_folder_that_is_not_whole(runs, small_data, tmp_path, option, source):
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    arguments = ("train", *TINY_RUN, "--output-root", runs, "--data-root", small_data, option, folder)
    (folder / "model.safetensors").unlink()
    assert f"{folder}: expected *.safetensors weights, got none" in refused(*arguments)
    (folder / "config.json").unlink()
    assert f"{folder}: expected a folder with the config.json of " in refused(*arguments)


@pytest.mark.parametrize(
    ("option", "source"), [("--base-model", weights.base_folder()), ("--audio-encoder", weights.audio_encoder_folder())]
)
def test_weights_that_are_cut_short(runs, small_data, tmp_path, option, source):
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    line = refused("train", *TINY_RUN, "--output-root", runs, "--data-root", small_data, option, folder)
    assert f"{folder}: expected " in line


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_an_output_root_with_a_file_in_the_way(tmp_path, small_data, below):
    (tmp_path / "file").write_text("in the way")
    line = refused("train", *TINY_RUN, "--data-root", small_data, "--output-root", tmp_path / "file" / below)
    assert f"{tmp_path / 'file'}: expected a folder that can be written, got a file" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_output_root_without_permission(runs, small_data, monkeypatch):
    monkeypatch.setattr("safe_train.runs.create.os.access", lambda path, mode: not mode & os.W_OK)
    line = refused("train", *TINY_RUN, "--data-root", small_data, "--output-root", runs)
    assert f"{runs}: expected a folder that can be written, got no permission to write" in line


# --- bad input to the commands that read a run


@pytest.mark.parametrize(
    "arguments", [["train", "--resume"], ["eval"], ["report"], ["ask", "--image", "a.png", "what?"]], ids=lambda a: a[0]
)
def test_a_folder_that_is_no_run(tmp_path, arguments):
    command, *rest = arguments
    line = refused(command, *([*rest, tmp_path] if rest[:1] == ["--resume"] else [tmp_path, *rest[::-1][:1]]))
    assert f"{tmp_path}/" in line
    assert "expected the " in line
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 3}))
    assert "expected a run folder with a checkpoint, got none" in refused("train", "--resume", tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[]", "3", '{"variant": "x", "seed": 1}', '{"variant": 1, "seed": 1, "training": []}']
)
def test_metrics_of_no_run(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    assert f"{tmp_path / 'metrics.json'}: expected the metrics of a finished run" in refused("report", tmp_path)


# --- what the light commands print


def test_variants_are_listed_with_the_ablation_s_names():
    printed = invoke("variants").stdout
    for name in ("no_retention", "soft_retention", "fisher_retention", "nullspace_retention", "full_retention"):
        assert f"{name}\n" in printed
    assert "soft_retention = fisher_retention" in printed
    assert "full_safe = full_retention" in printed


def test_the_environment_is_reported():
    printed = invoke("env").stdout
    for word in ("python", "torch", "transformers", "triton", "torch on cpu" if not _has_gpu() else "triton on"):
        assert word in printed.lower()


def _has_gpu():
    import torch

    return torch.cuda.is_available()


def test_the_procedural_data_are_written_where_the_cache_is(tmp_path, monkeypatch, small_data):
    monkeypatch.setenv("SAFE_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "safe_train.embedded.dataset.write_dataset",
        lambda root, _sizes: shutil.copytree(small_data, root, dirs_exist_ok=True),
    )
    (folder,) = invoke("data", "embedded").stdout.splitlines()
    assert Path(folder).parent == tmp_path
    assert Path(folder, "vqa").is_dir()


def test_data_are_counted(small_data):
    printed = invoke("data", "check", small_data).stdout
    assert "vqa train: 60 questions, 30 images" in printed
    assert "audiocaps val: 24 captioned clips, 24 audio files" in printed
    of_val = invoke("data", "check", small_data, "--split", "val").stdout
    assert "vqa val: 40 questions, 20 images" in of_val
    assert "train" not in of_val


def test_missing_clips_are_counted_and_refused(own_data):
    next((own_data / "audiocaps" / "audio" / "val").glob("*.wav")).unlink()
    result = invoke("data", "check", own_data)
    assert result.exit_code == 2
    assert "1 x audio file that is missing: " in result.stdout
    assert result.stderr.startswith(f"error: {own_data}: expected data without defects, got 1 defect of 1 kind; ")


def test_a_data_root_that_is_none(tmp_path):
    assert f"{tmp_path / 'none'}: expected a data root or a data pack, got no such folder" in refused(
        "data", "check", tmp_path / "none"
    )


@pytest.mark.parametrize(
    ("passed", "words"),
    [([], "every condition fails, as it must"), (["VL silence"], "the positive control did not fail: VL silence")],
)
def test_what_a_positive_control_shows_is_said(capsys, passed, words):
    evaluation = SimpleNamespace(passed_although_damaged=lambda: passed)
    with pytest.raises(SystemExit) if passed else nullcontext():
        _say_control(evaluation)
    assert capsys.readouterr().err == f"the fusions were damaged on purpose: {words}\n"
