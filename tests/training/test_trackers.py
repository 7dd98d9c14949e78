"""What a tracker is sent, and what happens to a run when one fails: with trackers of this file's own, in this process.

Those of other projects are run by ``make test-trackers``.
"""

import contextlib
import json
import logging
from typing import ClassVar

import pytest
from accelerate import tracking
from click.testing import CliRunner

from safe_train.cli import train
from safe_train.config import build_config
from safe_train.errors import InputError, StoppedError
from safe_train.runs.layout import RunFolder
from safe_train.training import tracker_records
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.run import resume_run, start_run
from safe_train.training.trackers import require_trackers, tracked

STEPS = 6
SETTINGS = {
    "optimization.audio_batch_size": "4", "optimization.vl_batch_size": "4", "retention.fisher_samples": "8",
    "evaluation.max_vl": "20", "evaluation.max_audio": "20", "evaluation.max_text": "24", "evaluation.eval_steps": "3",
    "optimization.max_steps": str(STEPS), "log_every": "2", "checkpoint_every": "4", "tracking.project": "ears",
}  # fmt: skip


class Recorder(tracking.GeneralTracker):
    """Keeps what it is sent."""

    name = "recorder"
    requires_logging_directory = False
    main_process_only = False
    made: ClassVar = []

    def __init__(self, project):
        super().__init__()
        self.project, self.started, self.finished, self.configuration, self.sent = project, False, False, None, []
        self.made.append(self)

    @property
    def tracker(self):
        return self

    def start(self):
        self.started = True

    def store_init_configuration(self, values):
        assert self.started
        self.configuration = values

    def log(self, values, step=None, **_options):
        assert self.started
        assert not self.finished
        self.sent.append((step, values))

    def finish(self):
        self.finished = True


class Unreachable(Recorder):
    name = "unreachable"

    def start(self):
        raise ConnectionError("no route\nto host")


class Breaking(Recorder):
    """Takes the first values alone."""

    name = "breaking"

    def log(self, values, step=None, **options):
        if self.sent:
            raise OSError("quota exceeded")
        super().log(values, step, **options)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for kind in (Recorder, Unreachable, Breaking):
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, kind.name, kind)
    monkeypatch.setattr(Recorder, "made", [])
    return Recorder.made


def configuration(data, root, *trackers, **more):
    places = {"data.root": str(data), "output_root": str(root), "tracking.trackers": json.dumps(list(trackers))}
    return build_config({}, SETTINGS | places | more)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_tracker_gets_what_the_runs_files_have(small_data, tmp_path, registered):
    outcome = start_run(configuration(small_data, tmp_path, "recorder"), RunCallbacks())
    (recorder,) = registered
    run = RunFolder(outcome.folder)
    assert recorder.project == "ears"
    assert recorder.finished
    assert recorder.configuration["variant"] == "full_retention"
    assert recorder.configuration["optimization.max_steps"] == STEPS
    assert recorder.configuration["effective.trainable_parameters"] > 0
    assert all(isinstance(value, (bool, int, float, str)) for value in recorder.configuration.values())

    steps = [(step, values) for step, values in recorder.sent if any(name.startswith("train/") for name in values)]
    assert steps == [
        (line["step"], {f"train/{name}": value for name, value in line.items() if name != "step"})
        for line in lines(run.metrics_log)
    ]
    ((step, midway),) = [(step, values) for step, values in recorder.sent if "midway/vl/base_accuracy" in values]
    (written,) = lines(run.evaluation_log)
    assert step == written["step"] == 3
    assert midway["midway/vl/silence/kl"] == written["vl"]["silence"]["kl"]
    step, final = recorder.sent[-1]
    written = json.loads(run.metrics.read_text())["evaluation"]
    assert step == STEPS
    for name, path in {
        "vl/base_accuracy": ("base", "mean"),
        "vl/silence/accuracy": ("vl", "silence", "accuracy", "mean"),
        "vl/distractor/difference": ("vl", "distractor", "difference", "mean"),
        "vl/loud/kl": ("vl", "loud", "kl"),
        "vl/loud/answer_change_rate": ("vl", "loud", "answer_change_rate"),
        "text/base_accuracy": ("base_text", "mean"),
        "text/silence/difference": ("text", "silence", "difference", "mean"),
        "documents/loud/bits_per_byte": ("documents", "loud", "bits_per_byte", "mean"),
        "documents/loud/difference": ("documents", "loud", "difference", "mean"),
        "audio/matched/accuracy": ("audio", "matched", "accuracy", "mean"),
        "audio/silence/gain": ("audio_gain", "silence", "mean"),
    }.items():
        value = written
        for key in path:
            value = value[key]
        assert final[f"eval/{name}"] == value, name


def test_a_resumed_run_sends_what_is_new(small_data, tmp_path, registered):
    seen = []
    callbacks = RunCallbacks(step=lambda step, *_: seen.append(step), should_stop=lambda: len(seen) == 3)
    outcome = start_run(configuration(small_data, tmp_path, "recorder"), callbacks)
    assert outcome.table is None
    resume_run(outcome.folder, RunCallbacks())
    first, second = registered
    assert first.finished
    assert first.configuration == second.configuration  # this tracker knows nothing of resuming: a record of its own
    steps = [step for recorder in registered for step, values in recorder.sent if "train/audio_loss" in values]
    assert steps == [2, 4, 6]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["recoder"], r"tracking.trackers: expected of .*, got 'recoder'; did you mean 'recorder'\?"),
        (["xyz"], r"got 'xyz'; name one of them"),
        (["recorder", "wandb"], r"tracker wandb: expected its package, got none; pip install wandb"),
    ],
)
def test_one_that_is_not_there_is_refused_before_anything_is_loaded(monkeypatch, tmp_path, names, line):
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(InputError, match=line):
        require_trackers(names)
    stages = []
    with pytest.raises(InputError, match=line):
        start_run(configuration(tmp_path / "no data", tmp_path, *names), RunCallbacks(stage=stages.append))
    assert stages == []


def test_one_that_cannot_start_is_told_in_a_line_and_nothing_is_left(small_data, tmp_path, registered):
    line = r"tracker unreachable: expected that it starts, got ConnectionError: no route to host; mend it, or leave"
    with pytest.raises(InputError, match=line):
        start_run(configuration(small_data, tmp_path, "recorder", "unreachable"), RunCallbacks())
    assert registered[0].finished
    assert list(tmp_path.iterdir()) == []


def test_one_that_fails_on_the_way_is_left_out_and_the_run_ends_well(small_data, tmp_path, registered, caplog):
    with caplog.at_level(logging.WARNING):
        outcome = start_run(configuration(small_data, tmp_path, "breaking", "recorder"), RunCallbacks())
    assert outcome.table is not None
    warnings = [record.message for record in caplog.records if "tracker" in record.message]
    assert warnings == ["tracker breaking: OSError: quota exceeded; left out from here on, the run's files have all"]
    breaking, recorder = registered
    assert len(breaking.sent) == 1
    assert [step for step, values in recorder.sent if "train/audio_loss" in values] == [2, 4, 6]


def test_a_run_that_fails_ends_its_records(small_data, tmp_path, registered):
    def stop(*_arguments):
        raise StoppedError("now")

    with contextlib.suppress(StoppedError):
        start_run(configuration(small_data, tmp_path, "recorder"), RunCallbacks(step=stop))
    assert registered[0].finished


def test_a_resumed_run_goes_on_without_one_that_does_not_start_any_more(small_data, tmp_path, registered, caplog):
    seen = []
    callbacks = RunCallbacks(step=lambda step, *_: seen.append(step), should_stop=lambda: len(seen) == 1)
    outcome = start_run(configuration(small_data, tmp_path, "recorder", "breaking"), callbacks)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Breaking, "start", Unreachable.start)
        outcome = resume_run(outcome.folder, RunCallbacks())
    assert outcome.table is not None
    line = "tracker breaking: ConnectionError: no route to host; left out from here on, the run's files have all"
    assert line in [record.message for record in caplog.records]


def test_a_finished_run_that_is_resumed_sends_its_evaluation_once(small_data, tmp_path, registered):
    more = {"optimization.max_steps": "2", "evaluation.eval_steps": "0", "evaluation.conditions": '["silence"]'}
    outcome = start_run(configuration(small_data, tmp_path, "recorder", **more), RunCallbacks())
    resume_run(outcome.folder, RunCallbacks())
    first, second = registered
    assert "eval/vl/base_accuracy" in first.sent[-1][1]
    assert second.sent == []


@pytest.mark.parametrize("content", ['{"wandb": 3}', '{"wandb": {"id": null}}', "[]", "{"])
def test_what_is_known_of_records_is_checked(tmp_path, content):
    (tmp_path / "trackers.json").write_text(content)
    config = configuration(tmp_path, tmp_path, "recorder")
    line = r"trackers\.json.*by what trackers know the run, got .*; remove it, and the trackers begin new records"
    with pytest.raises(InputError, match=line), tracked(config, {}, tmp_path, step=3):
        pass


def test_a_login_that_is_missing_is_told_before_anything_is_loaded(tmp_path, monkeypatch):
    def log_in(name):
        raise PermissionError(f"no key for {name}")

    monkeypatch.setattr(tracker_records, "log_in", log_in)
    stages = []
    line = "tracker recorder: expected a login, got PermissionError: no key for recorder; log in, or leave the tracker"
    with pytest.raises(InputError, match=line):
        start_run(configuration(tmp_path, tmp_path, "recorder"), RunCallbacks(stage=stages.append))
    assert stages == []


def test_a_plan_names_a_tracker_that_is_not_there():
    result = CliRunner().invoke(train, ["--dry-run", "--tracker", "recoder"])
    assert result.exit_code == 2
    assert "did you mean 'recorder'?" in result.output


def test_one_name_in_place_of_a_list_is_told():
    with pytest.raises(InputError, match=r"tracking\.trackers: expected a list, got 'tensorboard'; write \[\.\.\.\]"):
        build_config({"tracking": {"trackers": "tensorboard"}}, {})
