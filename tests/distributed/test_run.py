"""Whole runs of two processes, from the command: what they write and print, evaluation, signals."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from safe_train.cli import safe
from safe_train.runs.checkpoint import latest_checkpoint
from tests.distributed.conftest import ends, start
from tests.files import assert_same_bytes, drop_keys
from tests.tolerances import PARALLEL, relative_error

PARALLEL_ERROR = PARALLEL[torch.float32]
# Several processes, each of which imports and loads for itself.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EVALUATION = ("evaluation.max_vl=24", "evaluation.max_audio=20", "evaluation.batch_size=7")


def words(settings, root, *more):
    assignments = [*(f"{key}={value}" for key, value in settings.items()), *EVALUATION, *more]
    return ["--output-root", root, *(word for setting in assignments for word in ("--set", setting))]


@pytest.fixture(scope="module")
def alone(settings, tmp_path_factory):
    """The run of one process."""
    root = tmp_path_factory.mktemp("alone")
    result = CliRunner().invoke(safe, ["train", *map(str, words(settings, root))], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (folder,) = root.iterdir()
    return folder


@pytest.fixture(scope="module")
def together(run_all, settings, tmp_path_factory):
    """The run of two processes that torchrun starts, each with a worker; its folder and what was printed."""
    root = tmp_path_factory.mktemp("together")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m", "safe_train")
    (ended,) = ends(start([*launcher, *words(settings, root, "data.num_workers=1")], world_size=1))
    assert ended.code == 0, ended
    (folder,) = root.iterdir()
    return folder, ended


def answers(run: Path) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in run.glob("evaluation/*/*.jsonl")}


def test_the_run_has_the_files_of_one_process(alone, together):
    folder, ended = together
    of_one, of_two = ({str(path.relative_to(run)) for path in run.rglob("*")} for run in (alone, folder))
    in_keyed = re.compile(r"evaluation/[0-9a-f]{12}")  # named after the weights, which differ by rounding
    assert {in_keyed.sub("evaluation/KEY", path) for path in of_two} == {
        in_keyed.sub("evaluation/KEY", path) for path in of_one
    }
    assert ended.out.count(f"run folder: {folder}") == 1
    assert ended.err.count("] training") == 1


def test_metrics_and_weights_are_those_of_one_process(alone, together):
    folder, _ = together
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (alone, folder)]
    assert [line["step"] for line in lines[1]] == [line["step"] for line in lines[0]] == list(range(1, 9))
    for one, two in zip(*lines, strict=True):
        for name in ("audio_loss", "kl", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=10 * PARALLEL_ERROR, abs=1e-9), name
    weights = [load_file(run / "checkpoints" / "step-0000008" / "adapter.safetensors") for run in (alone, folder)]
    for name, expected in weights[0].items():
        assert relative_error(weights[1][name], expected) < PARALLEL_ERROR, name


def test_the_base_is_answered_with_the_same_bits(alone, together):
    of_base = [{name: text for name, text in answers(run).items() if "base" in name} for run in (alone, together[0])]
    assert of_base[0] == of_base[1]
    assert len(of_base[0]) == 5  # rows of three kinds, answers to two
    evaluations = [json.loads((run / "metrics.json").read_text())["evaluation"] for run in (alone, together[0])]
    assert evaluations[1]["base"] == evaluations[0]["base"]
    assert evaluations[1]["vl"]["bypass"]["bit_equal"] is True
    assert evaluations[1]["text"]["bypass"]["bit_equal"] is True


def test_two_processes_evaluate_a_run_to_the_same_bits(run_all, alone, tmp_path):
    """Also where some answers are there already: of the first condition whole batches, of another all."""
    expected = answers(alone)
    copy = Path(shutil.copytree(alone, tmp_path / alone.name))
    (silence,) = copy.glob("evaluation/*/vl.silence.jsonl")
    for path in copy.glob("evaluation/*/*.jsonl"):
        if path.name == silence.name:
            path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:9]))
        elif path.name != "audio.matched.jsonl":
            path.unlink()
    main, other = run_all("-c", "from safe_train.cli import safe; safe()", "eval", copy, "--json")
    assert answers(copy) == expected
    printed = json.loads(main.out)
    written = json.loads((alone / "metrics.json").read_text())["evaluation"]
    assert printed | {"seconds": 0} == written | {"seconds": 0}
    assert other.out == ""


def test_what_a_person_can_mend_is_told_once(settings, tmp_path):
    ended = ends(start(["-m", "safe_train", *words(settings, tmp_path, "optimization.vl_batch_size=1")]))
    assert [process.code for process in ended] == [2, 2]
    lines = [line for process in ended for line in process.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert lines[0].startswith("error: optimization.vl_batch_size: expected a row for each of 2 processes, got 1; ")
    assert list(tmp_path.iterdir()) == []


def test_a_sharded_base_changes_no_bit_of_a_run(run_all, settings, together, tmp_path):
    """Also where a process has no batch of its own to answer: 20 audio examples in batches of 7 are three for two."""
    run_all("-m", "safe_train", *words(settings, tmp_path, "parallel.shard_base=true"))
    (folder,) = tmp_path.iterdir()
    assert answers(folder) == answers(together[0])
    for path in (together[0] / "checkpoints" / "step-0000008").glob("*.safetensors"):
        assert_same_bytes(folder / "checkpoints" / path.parent.name / path.name, path)


@pytest.mark.parametrize("shards", [False, True], ids=["whole base", "sharded base"])
def test_a_process_that_is_killed_ends_the_others_with_one_line_and_the_run_goes_on(settings, tmp_path, shards):
    more = ("optimization.max_steps=2000", f"parallel.shard_base={shards}", "variant=soft_retention")
    started = start(["-m", "safe_train", *words(settings, tmp_path, *more)])
    try:
        while not list(tmp_path.glob("*/checkpoints/step-0000004")):
            assert started[0].poll() is None, started[0].communicate()
            time.sleep(0.02)
    finally:
        started[1].kill()
    main, _ = ends(started)
    (line,) = (line for line in main.err.splitlines() if line.startswith("error: "))
    assert main.code == 1
    assert "Traceback" not in main.err
    assert line.startswith("error: process 0 of 2: expected the others' answers, got ")
    (folder,) = tmp_path.iterdir()
    steps = latest_checkpoint(folder).step + 2
    config = json.loads((folder / "config.json").read_text())
    config["optimization"]["max_steps"] = steps
    (folder / "config.json").write_text(json.dumps(config))
    drop_keys(latest_checkpoint(folder).folder, "state.json", "settings")  # else the edit would be refused
    result = CliRunner().invoke(safe, ["train", "--resume", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads((folder / "metrics.json").read_text())["training"]["steps"] == steps


def test_a_signal_to_one_process_ends_all_with_a_checkpoint(settings, tmp_path):
    started = start(["-m", "safe_train", *words(settings, tmp_path, "optimization.max_steps=2000")])
    try:
        while not list(tmp_path.glob("*/metrics.jsonl")):  # written by the first step
            assert started[0].poll() is None, started[0].communicate()
            time.sleep(0.02)
    finally:
        started[1].send_signal(signal.SIGUSR1)
    main, other = ends(started)
    assert (main.code, other.code) == (75, 75)
    steps = int(re.search(r"stopped after step (\d+)", main.out)[1])
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in (folder / "checkpoints").iterdir()][-1:] == [f"step-{steps:07d}"]
    assert other.out == ""
