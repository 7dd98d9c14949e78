"""The batch scripts, with a stand-in for training and Slurm: what they run, how they stop and how they go on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE_TRAINER = Path(__file__).parent / "fake_trainer.py"
SCRIPTS = ("overfitting_test.sh", "full_training.sh")
SECONDS = 240


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Project:
    """A project's folder with the real scripts and the fake commands."""

    def __init__(self, folder):
        self.folder = folder
        self.calls = folder / "calls"
        shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("__pycache__"))
        commands = folder / ".venv" / "bin"
        train = f'exec "{sys.executable}" "{FAKE_TRAINER}" "$@"'
        program(commands / "safe-train", f"#!/bin/bash\n{train}\n")
        program(commands / "safe", f'#!/bin/bash\necho "safe $*" >>"{self.calls}"\necho "the table"\n')
        program(
            commands / "python",
            f'#!/bin/bash\nif [ "$1" = -m ]; then shift 2; {train}; fi\n'
            f'PYTHONPATH={folder} exec "{sys.executable}" "$@"\n',
        )
        for command, answer in {"scontrol": "", "sbatch": "echo 17"}.items():
            program(folder / "slurm" / command, f'#!/bin/bash\necho "{command} $*" >>"{self.calls}"\n{answer}\n')
        program(
            folder / "slurm" / "srun",
            '#!/bin/bash\nwhile [[ $1 == -* ]]; do options+=("$1"); shift; done\n'
            f'echo "srun ${{options[*]}} on $MASTER_ADDR: $1" >>"{self.calls}"\nexec "$@"\n',
        )

    def environment(self, **variables):
        path = f"{self.folder / 'slurm'}:{os.environ['PATH']}"
        kept = {"PATH": path, "HOME": str(self.folder), "OUTPUT_ROOT": str(self.folder / "out")}
        return {name: str(value) for name, value in (kept | variables).items() if value is not None}

    def start(self, script, *arguments, **variables):
        # A shell cannot trap what was ignored when it started, as SIGINT is in jobs that run in the background.
        return subprocess.Popen(
            ["env", "--default-signal=INT", "bash", str(self.folder / "scripts" / script), *arguments],
            cwd=self.folder,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script, *arguments, **variables):
        process = self.start(script, *arguments, **variables)
        stdout, stderr = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def runs(self):
        """Variant, seed and whether it has finished, of every run folder in the order of their making."""
        found = []
        for path in sorted((self.folder / "out").glob("*/config.json")):
            config = json.loads(path.read_text())
            found.append((config["label"], config["seed"], (path.parent / "metrics.json").exists()))
        return found

    def given(self):
        """Arguments of every run in the order of their making."""
        paths = sorted((self.folder / "out").glob("*/config.json"))
        return [json.loads(path.read_text())["given"] for path in paths]

    def called(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def wait_for_training(self):
        deadline = time.monotonic() + SECONDS
        while not list((self.folder / "out").glob("*/training")):
            assert time.monotonic() < deadline, "the training never began"
            time.sleep(0.05)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.mark.parametrize(
    ("script", "variants"),
    [
        ("overfitting_test.sh", ["no_retention", "soft_retention", "full_safe"]),
        (
            "full_training.sh",
            ["no_retention", "soft_retention", "fisher_retention", "nullspace_retention", "full_retention"],
        ),
    ],
)
def test_every_variant_in_turn_and_the_report(project, script, variants):
    result = project.run(script)
    assert result.returncode == 0, result.stderr
    assert project.runs() == [(variant, 42, True) for variant in variants]
    (report,) = project.called()
    command, page = report.split(" --output ")
    finished = sorted(path.parent for path in project.folder.glob("out/*/metrics.json"))
    assert command.split() == ["safe", "report", *map(str, finished)]
    (table,) = (project.folder / "out").glob("report_*.txt")
    assert table.read_text() == "the table\n"
    assert page == str(table.with_suffix(".html"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_variants_and_seeds_are_those_that_are_named(project, script):
    result = project.run(script, VARIANT_ORDER="no_retention", SEEDS="1 2")
    assert result.returncode == 0, result.stderr
    assert project.runs() == [("no_retention", 1, True), ("no_retention", 2, True)]


@pytest.mark.parametrize(
    ("script", "name", "nearest"),
    [
        ("overfitting_test.sh", "full_retention", "no_retention"),
        ("full_training.sh", "full_safe", "full_retention"),
    ],
)
def test_an_unknown_variant_is_refused_before_anything_runs(project, script, name, nearest):
    result = project.run(script, VARIANT_ORDER=f"no_retention {name}")
    assert result.returncode == 2
    assert f"unknown variant '{name}'" in result.stderr
    assert nearest in result.stderr
    assert project.runs() == []
    assert project.called() == []


def test_variants_of_a_file_are_trained(project):
    fields = "description: Mine., retention_loss_weight: 1, distillation_weight: 1, fisher_weight: 0"
    (project.folder / "variants.yaml").write_text(f"mine: {{{fields}, enable_null_space: true}}\n")
    variables = {"VARIANT_ORDER": "mine", "VARIANTS_FILE": "variants.yaml"}
    assert project.run("full_training.sh", **variables).returncode == 0
    (given,) = project.given()
    assert (given["variant"], given["variants_file"]) == ("mine", str(project.folder / "variants.yaml"))
    refused = project.run("full_training.sh", **variables | {"VARIANT_ORDER": "mien"})
    assert refused.returncode == 2
    assert "unknown variant 'mien'" in refused.stderr
    refused = project.run("full_training.sh", **variables | {"VARIANTS_FILE": "no.yaml"})
    assert (refused.returncode, "VARIANTS_FILE=no.yaml: expected a file" in refused.stderr) == (2, True)


@pytest.mark.parametrize("variable", ["PACK_ROOT", "DATA_ROOT"])
def test_a_folder_that_does_not_exist_is_refused_before_anything_runs(project, variable):
    result = project.run("overfitting_test.sh", **{variable: "/no/such/folder"})
    assert (result.returncode, project.runs()) == (2, [])
    assert result.stderr.startswith(f"error: {variable}=/no/such/folder: expected")


def test_an_image_that_does_not_exist_is_refused(project):
    result = project.run("overfitting_test.sh", SAFE_IMAGE="no.sif")
    assert (result.returncode, project.runs()) == (2, [])
    assert result.stderr.startswith("error: SAFE_IMAGE=no.sif: expected an image")


OVERFITTING = {
    "SUBSET_SIZE": ("subset_size", "7"), "TRAIN_SOURCE": ("train_source", "mock"),
    "VAL_SOURCE": ("val_source", "mock_vl"), "VAL_SIZE": ("val_size", "9"),
    "NUM_EPOCHS": ("num_epochs", "3"), "TRAIN_BS": ("train_batch_size", "5"),
    "VAL_BS": ("val_batch_size", "6"), "NUM_WORKERS": ("num_workers", "2"), "SEED": ("seed", "1"),
    "MODEL_CONFIG": ("model_config", "full"), "MAX_EVAL_BATCHES": ("max_eval_batches", "4"),
    "GEN_MAX_NEW_TOKENS": ("generation_max_new_tokens", "8"), "DATA_ROOT": ("data_path", "{folder}"),
    "PACK_ROOT": ("pack_root", "{folder}"), "OUTPUT_ROOT": ("output_root", "{folder}/out"),
    "TEXT_SOURCE": ("text_source", "none"), "TEXT_SHARE": ("text_share", "0.5"),
    "MAX_TEXT_VAL_SAMPLES": ("text_val_size", "3"),
}  # fmt: skip
FULL = {
    "DATA_ROOT": ("data_root", "{folder}"), "OUTPUT_ROOT": ("output_root", "{folder}/out"),
    "TRAIN_SPLIT": ("data.train_split", "all"), "VAL_AUDIO_SPLIT": ("data.val_split", "test"),
    "TRAIN_BS": ("optimization.audio_batch_size", "5"), "VAL_BS": ("evaluation.batch_size", "6"),
    "NUM_WORKERS": ("data.num_workers", "2"), "SEED": ("seed", "1"), "MODEL_CONFIG": ("model_config", "multimodal"),
    "LR_PROJECTOR": ("optimization.lr_projector", "1e-4"), "LR_ADAPTER": ("optimization.lr_adapter", "5e-5"),
    "NULL_SPACE_RANK": ("retention.null_space_rank", "4"),
    "NULL_SPACE_MIN_SAMPLES": ("retention.null_space_min_samples", "64"),
    "NULL_SPACE_REFRESH": ("retention.null_space_refresh_interval", "2000"),
    "GRADIENT_ACCUMULATION_STEPS": ("optimization.gradient_accumulation_steps", "3"),
    "MAX_AUDIO_VAL_SAMPLES": ("evaluation.max_audio", "11"), "MAX_VQA_VAL_SAMPLES": ("evaluation.max_vl", "12"),
    "MAX_TEXT_VAL_SAMPLES": ("evaluation.max_text", "13"), "TEXT_SHARE": ("data.text_ratio", "0.5"),
}  # fmt: skip


@pytest.mark.parametrize(("script", "readers"), [("overfitting_test.sh", OVERFITTING), ("full_training.sh", FULL)])
def test_each_variable_reaches_the_training(project, script, readers):
    values = {name: value.format(folder=project.folder) for name, (_, value) in readers.items()}
    (project.folder / "out").mkdir()
    for variables in ({}, values):
        result = project.run(script, VARIANT_ORDER="no_retention", **variables)
        assert result.returncode == 0, result.stderr
    before, after = project.given()
    for name, (key, _) in readers.items():
        assert after[key] == values[name]
        assert name == "OUTPUT_ROOT" or before.get(key) != after[key], f"{name} is its default, which shows nothing"


def test_settings_that_full_training_passes_are_settings_of_safe_train(project):
    from safe_train.config import build_config

    variables = {name: value.format(folder=project.folder) for name, (_, value) in FULL.items()}
    (project.folder / "out").mkdir()
    result = project.run("full_training.sh", VARIANT_ORDER="full_retention", SAFE_SET="checkpoint_every=7", **variables)
    assert result.returncode == 0, result.stderr
    given = project.given()[0]
    options = {key: given.pop(name) for name, key in (("data_root", "data.root"), ("model_config", "model.config"))}
    config = build_config({}, given, options=options)
    assert (config.checkpoint_every, config.optimization.vl_batch_size, config.model.config) == (7, 5, "multimodal")


def test_wavcaps_takes_the_place_of_audiocaps(project):
    assert project.run("full_training.sh", VARIANT_ORDER="no_retention", USE_WAVCAPS="1").returncode == 0
    assert project.given()[0]["data.train_audio_source"] == "wavcaps"


@pytest.mark.parametrize(("ratio", "weights"), [("0.25", (0.75, 0.25)), (".1", (0.9, 0.1))])
def test_wavcaps_may_be_a_share_of_the_clips(project, ratio, weights):
    from safe_train.config import build_config

    result = project.run("full_training.sh", VARIANT_ORDER="no_retention", USE_WAVCAPS="1", WAVCAPS_RATIO=ratio)
    assert result.returncode == 0, result.stderr
    mixture = build_config({}, {"data.train_audio_mixture": project.given()[0]["data.train_audio_mixture"]}).data
    found = [(part.source, part.weight) for part in mixture.train_audio_mixture]
    assert found == [("audiocaps", pytest.approx(weights[0])), ("wavcaps", pytest.approx(weights[1]))]


def test_questions_may_be_of_another_split_than_clips(project):
    assert project.run("full_training.sh", VARIANT_ORDER="no_retention", VAL_VQA_SPLIT="test").returncode == 0
    given = project.given()[0]
    assert (given["data.val_split"], given["data.val_vl_split"]) == ("val", "test")


@pytest.mark.parametrize("ratio", ["0", "1.5", "-1", "half", "1e-3", "."])
def test_a_share_that_is_none_is_refused(project, ratio):
    result = project.run("full_training.sh", USE_WAVCAPS="1", WAVCAPS_RATIO=ratio)
    assert (result.returncode, project.runs()) == (2, [])
    assert result.stderr.startswith("error: WAVCAPS_RATIO: expected a number above 0 and at most 1")


@pytest.mark.parametrize("script", SCRIPTS)
def test_usr1_ends_in_a_checkpoint_and_the_same_job_goes_on(project, script):
    variables = {"VARIANT_ORDER": "no_retention", "SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": project.folder}
    process = project.start(script, FAKE_STEPS="0", FAKE_SECONDS="0.1", **variables)
    project.wait_for_training()
    process.send_signal(signal.SIGUSR1)
    _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, stderr
    assert project.called() == ["scontrol requeue 17"]
    assert project.runs() == [("no_retention", 42, False)]

    result = project.run(script, SLURM_RESTART_COUNT="1", FAKE_STEPS="100", FAKE_SECONDS="0", **variables)
    assert result.returncode == 0, result.stderr
    assert "goes on" in result.stdout
    assert project.runs() == [("no_retention", 42, True)]


def test_another_job_leaves_the_unfinished_run_alone(project):
    """The negative control of going on: the same variant and seed of another job is not taken up."""
    process = project.start(
        "full_training.sh", VARIANT_ORDER="no_retention", SLURM_JOB_ID="17", FAKE_STEPS="0", FAKE_SECONDS="0.1"
    )
    project.wait_for_training()
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=SECONDS)
    assert project.run("full_training.sh", VARIANT_ORDER="no_retention", SLURM_JOB_ID="18").returncode == 0
    assert project.runs() == [("no_retention", 42, False), ("no_retention", 42, True)]


def test_usr1_before_python_listens_is_a_stop_too(project):
    variables = {"FAKE_DEAF": "1", "FAKE_STEPS": "0", "FAKE_SECONDS": "0.1", "SLURM_JOB_ID": "17"}
    process = project.start("full_training.sh", VARIANT_ORDER="no_retention", **variables)
    project.wait_for_training()
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 75
    assert project.called() == ["scontrol requeue 17"]


TOGETHER = "--overcommit --cpu-bind=none --kill-on-bad-exit=0 --wait=120 on node1: safe-train"


@pytest.mark.parametrize(
    ("job", "started"),
    [
        ({"SLURM_NTASKS": 1, "SLURM_JOB_NUM_NODES": 1}, None),
        ({"SLURM_NTASKS": 2, "SLURM_JOB_NUM_NODES": 2}, f"srun --nodes=2 --ntasks=2 {TOGETHER}"),
        ({"SLURM_JOB_NUM_NODES": 2, "SLURM_GPUS_ON_NODE": 4}, f"srun --nodes=2 --ntasks=8 {TOGETHER}"),
        ({"SLURM_NTASKS": 4, "PROCESSES": 1}, None),
        ({"SLURM_GPUS_ON_NODE": 4, "PROCESSES": 3}, f"srun --nodes=1 --ntasks=3 {TOGETHER}"),
    ],
)  # fmt: skip
def test_a_job_of_several_tasks_or_gpus_trains_in_as_many_processes(project, job, started):
    result = project.run(
        "full_training.sh", VARIANT_ORDER="no_retention", SLURM_JOB_ID="17", MASTER_ADDR="node1", **job
    )
    assert result.returncode == 0, result.stderr
    assert [call for call in project.called() if call.startswith("srun")] == ([started] if started else [])
    assert project.runs() == [("no_retention", 42, True)]


def test_processes_under_srun_are_asked_to_stop_by_a_file_and_not_by_a_signal(project):
    job = {"VARIANT_ORDER": "no_retention", "SLURM_JOB_ID": "17", "FAKE_STEPS": "0", "FAKE_SECONDS": "0.1"}
    job["FAKE_IMMUNE"] = "1"  # no signal stops it
    process = project.start("full_training.sh", SLURM_NTASKS="2", **job)
    project.wait_for_training()
    process.send_signal(signal.SIGUSR1)
    _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, stderr
    assert project.called()[-1] == "scontrol requeue 17"
    assert project.runs() == [("no_retention", 42, False)]
    assert not list((project.folder / "out").glob(".stop*"))
    result = project.run("full_training.sh", SLURM_NTASKS="2", SLURM_RESTART_COUNT="1", **job | {"FAKE_STEPS": "100"})
    assert result.returncode == 0, result.stderr
    assert project.runs() == [("no_retention", 42, True)]


def test_variables_of_a_job_are_of_no_meaning_outside_of_one(project):
    assert project.run("full_training.sh", VARIANT_ORDER="no_retention", SLURM_NTASKS="4").returncode == 0
    assert not [call for call in project.called() if call.startswith("srun")]


def test_processes_that_are_no_number_are_refused(project):
    result = project.run("full_training.sh", SLURM_JOB_ID="17", PROCESSES="two")
    assert (result.returncode, project.runs()) == (2, [])
    assert result.stderr.startswith("error: PROCESSES=two: expected a number")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_job_writes_a_checkpoint_and_is_not_requeued(project, number):
    process = project.start(
        "full_training.sh", VARIANT_ORDER="no_retention", SLURM_JOB_ID="17", FAKE_STEPS="0", FAKE_SECONDS="0.1"
    )
    project.wait_for_training()
    process.send_signal(number)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 75
    assert project.called() == []
    assert list(project.folder.glob("out/*/checkpoints/step-*"))


def stopped(project, **variables):
    process = project.start(
        "full_training.sh", VARIANT_ORDER="no_retention", FAKE_STEPS="0", FAKE_SECONDS="0.1", **variables
    )
    project.wait_for_training()
    process.send_signal(signal.SIGUSR1)
    return process.communicate(timeout=SECONDS)


def test_requeueing_has_a_cap(project):
    _, stderr = stopped(project, SLURM_JOB_ID="17", SLURM_RESTART_COUNT="3", MAX_REQUEUES="3")
    assert project.called() == []
    assert "MAX_REQUEUES=3 is reached" in stderr


def test_a_task_of_an_array_is_requeued_by_its_own_name(project):
    stopped(project, SLURM_JOB_ID="19", SLURM_ARRAY_JOB_ID="17", SLURM_ARRAY_TASK_ID="0")
    assert project.called() == ["scontrol requeue 17_0"]


def test_without_slurm_a_stopped_sweep_goes_on_under_its_name(project):
    stopped(project, SAFE_JOB_ID="mine")
    assert project.called() == []
    result = project.run("full_training.sh", VARIANT_ORDER="no_retention", SAFE_JOB_ID="mine", FAKE_STEPS="100")
    assert result.returncode == 0, result.stderr
    assert project.runs() == [("no_retention", 42, True)]


def test_a_variant_that_fails_does_not_hold_up_the_others_and_is_told(project):
    result = project.run("full_training.sh", FAKE_EXIT="fisher_retention:3")
    assert result.returncode != 0
    assert [run[2] for run in project.runs()] == [True, True, False, True, True]
    assert "fisher_retention, seed 42: failed with exit code 3" in result.stderr
    assert "fisher_retention, seed 42: not finished" in result.stderr
    assert "the table" in result.stdout


def test_a_report_that_fails_fails_the_job_and_leaves_no_empty_table(project):
    program(project.folder / ".venv" / "bin" / "safe", "#!/bin/bash\nexit 2\n")
    assert project.run("full_training.sh").returncode != 0
    assert list((project.folder / "out").glob("report_*")) == []


def test_an_array_has_one_task_a_variant_and_seed(project):
    variables = {"VARIANT_ORDER": "no_retention full_retention", "SEEDS": "1 2", "SLURM_ARRAY_JOB_ID": "17"}
    for index in range(4):
        result = project.run("full_training.sh", SLURM_ARRAY_TASK_ID=index, SLURM_JOB_ID=20 + index, **variables)
        assert result.returncode == 0, result.stderr
    units = [("no_retention", 1), ("full_retention", 1), ("no_retention", 2), ("full_retention", 2)]
    assert [run[:2] for run in project.runs()] == units
    assert project.run("full_training.sh", SLURM_ARRAY_TASK_ID=4, SLURM_JOB_ID=24, **variables).returncode == 2

    listed = project.run("full_training.sh", "list", **variables).stdout.splitlines()
    assert listed == [f"{variant} {seed}" for variant, seed in units]
    summary = project.run("full_training.sh", "summary", "17", **variables)
    assert summary.returncode == 0, summary.stderr
    assert (project.folder / "out" / "report_17.txt").read_text() == "the table\n"


def test_a_sweep_is_an_array_and_a_summary_that_waits_for_it(project):
    script = "scripts/full_training.sh"
    result = project.run(
        "submit_sweep.sh", script, "--gpus=1", VARIANT_ORDER="no_retention full_retention", SEEDS="1 2 3"
    )
    assert result.returncode == 0, result.stderr
    array, summary = project.called()
    assert array == f"sbatch --parsable --array=0-5 --output=safe-training-%A_%a.out --gpus=1 {script}"
    assert summary == (
        f"sbatch --parsable --dependency=afterany:17 --output=safe-training-17-summary.out {script} summary 17"
    )


def test_a_sweep_is_not_submitted_where_there_is_no_slurm(project):
    path = ":".join(folder for folder in os.environ["PATH"].split(":") if not (Path(folder) / "sbatch").exists())
    result = project.run("submit_sweep.sh", "scripts/full_training.sh", PATH=path)
    assert result.returncode == 2
    assert result.stderr == (
        "error: sbatch: expected Slurm's commands on PATH, got none; run this where jobs are submitted, or the "
        "sweep itself here: bash scripts/full_training.sh\n"
    )


def test_a_sweep_with_an_unknown_variant_is_not_submitted(project):
    result = project.run("submit_sweep.sh", "scripts/full_training.sh", VARIANT_ORDER="no_retention ful_retention")
    assert result.returncode == 2
    assert "did you mean 'full_retention'?" in result.stderr
    assert project.called() == []


def test_what_leaked_from_a_container_is_dropped(project):
    leaks = {"APPTAINER_CONTAINER": "/x.sif", "APPTAINER_BIND": "/nowhere", "LD_LIBRARY_PATH": "/.singularity.d/libs"}
    shell = (
        'source scripts/common.sh; drop_container_leaks; echo "$PATH|${APPTAINER_BIND-gone}|${LD_LIBRARY_PATH-gone}"'
    )
    user_path = "/opt/site:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", shell],
        cwd=project.folder,
        env=project.environment(USER_PATH=user_path, **leaks),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{user_path}|gone|gone\n"


def test_binds_that_the_user_set_on_the_host_stay(project):
    shell = 'source scripts/common.sh; drop_container_leaks; echo "$APPTAINER_BIND"'
    environment = project.environment(APPTAINER_BIND="/data")
    done = subprocess.run(
        ["bash", "-c", shell], cwd=project.folder, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "/data\n"


def test_with_an_image_everything_runs_in_it(project, tmp_path_factory):
    """The fake Apptainer writes down its arguments and runs what follows the image with the fakes of the project."""
    data = tmp_path_factory.mktemp("data")
    (project.folder / "containers").mkdir()
    (project.folder / "containers" / "safe.sif").touch()
    record, commands = project.folder / "apptainer-calls", project.folder / ".venv" / "bin"
    program(
        project.folder / "slurm" / "apptainer",
        f'#!/bin/bash\necho "$*" >>"{record}"\nuntil [[ $1 == *.sif ]]; do shift; done\nshift\n'
        f'PATH="{commands}:$PATH" exec "$@"\n',
    )
    variables = {"VARIANT_ORDER": "no_retention", "DATA_ROOT": data, "SAFE_BIND": "/more", "TRITON_CACHE_DIR": "/mine"}
    result = project.run("full_training.sh", TMPDIR=data, **variables)
    assert result.returncode == 0, result.stderr
    assert project.runs() == [("no_retention", 42, True)]
    calls = record.read_text().splitlines()
    assert [call.partition("safe.sif ")[2].split()[0] for call in calls] == [
        "python",
        "python",
        "safe-train",
        "python",
        "safe",
    ]
    for call in calls:
        words = call.split()
        options = list(pairwise(words))
        for folder in (project.folder, project.folder / "out", data, "/more"):
            assert ("--bind", str(folder)) in options
        assert ("--env", f"PYTHONPATH={project.folder}") in options
        assert ("--env", "TRITON_CACHE_DIR=/mine") in options
        assert ("--env", f"MPLCONFIGDIR={data}/safe-{os.getuid()}/MPLCONFIGDIR") in options


def test_in_a_job_the_project_is_where_it_was_submitted(project, tmp_path_factory):
    spool = tmp_path_factory.mktemp("spool") / "slurm_script"
    shutil.copy(ROOT / "scripts" / "full_training.sh", spool)
    command = ["bash", str(spool), "list"]
    outside = subprocess.run(command, cwd=spool.parent, env=project.environment(), capture_output=True, text=True)
    assert (outside.returncode, outside.stdout) == (2, "")
    environment = project.environment(SLURM_SUBMIT_DIR=project.folder)
    inside = subprocess.run(command, cwd=spool.parent, env=environment, capture_output=True, text=True)
    assert len(inside.stdout.splitlines()) == 5, inside.stderr


@pytest.mark.parametrize("name", ["data #2", "a: b", "[x]", "'quoted'", "null", "1e3", "~", "$(touch stolen)", "ü"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_path_is_taken_as_it_is(project, script, name):
    """Whatever YAML or a shell would make of it."""
    (project.folder / name).mkdir()
    variables = {"VARIANT_ORDER": "no_retention", "DATA_ROOT": project.folder / name, "NUM_EPOCHS": ""}
    result = project.run(script, OUTPUT_ROOT=project.folder / name / "out", **variables)
    assert result.returncode == 0, result.stderr
    (path,) = (project.folder / name / "out").glob("*/config.json")
    given = json.loads(path.read_text())["given"]
    assert given.get("data_root", given.get("data_path")) == str(project.folder / name)
    assert given["output_root"] == str(project.folder / name / "out")
    assert not list(project.folder.rglob("stolen"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_seed_is_decimal(project, script):
    result = project.run(script, VARIANT_ORDER="no_retention", SEEDS="010 8")
    assert result.returncode == 0, result.stderr
    assert [run[1] for run in project.runs()] == [10, 8]


@pytest.mark.parametrize("value", [" ", "1 x", "-1", "1.5", "$(touch stolen)", "1" * 30])
@pytest.mark.parametrize("script", SCRIPTS)
def test_seeds_that_are_none_are_refused_before_anything_runs(project, script, value):
    for words in ((), ("list",)):
        result = project.run(script, *words, SEEDS=value)
        assert (result.returncode, project.runs(), result.stdout) == (2, [], "")
        assert "number" in result.stderr
    assert not list(project.folder.rglob("stolen"))


def test_no_variants_are_refused(project):
    result = project.run("full_training.sh", VARIANT_ORDER=" ")
    assert (result.returncode, project.runs()) == (2, [])
    assert "expected at least one variant, got none" in result.stderr


NUMBERS = (
    "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_GPUS_ON_NODE", "PROCESSES", "MAX_REQUEUES", "SLURM_ARRAY_TASK_ID",
)  # fmt: skip


@pytest.mark.parametrize("value", ["PATH[$(touch stolen)]", "a[$(touch stolen)]", "1+1", "-1", "0x2", "9" * 30, "x"])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused_and_never_run(project, name, value):
    variables = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "17", "VARIANT_ORDER": "no_retention"} | {name: value}
    result = project.run("full_training.sh", **variables)
    assert (result.returncode, project.runs()) == (2, [])
    assert result.stderr.startswith(f"error: {name}={value}: expected a number from ")
    assert not list(project.folder.rglob("stolen"))


def test_a_restart_count_that_is_no_number_is_never_run(project):
    _, stderr = stopped(project, SLURM_JOB_ID="17", SLURM_RESTART_COUNT="a[$(touch stolen)]")
    assert "error: SLURM_RESTART_COUNT=" in stderr
    assert not list(project.folder.rglob("stolen"))


ODD = {
    "cut": lambda path: path.write_text('{"label": "no_ret'), "list": lambda path: path.write_text("[]"),
    "no text": lambda path: path.write_bytes(b"\xff"), "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo, "deep": lambda path: path.write_text("[" * 100_000), "empty": lambda path: path.touch(),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_a_folder_that_is_no_run_does_not_restart_a_sweep(project, odd):
    """It lies beside a run that was interrupted, which goes on."""
    variables = {"VARIANT_ORDER": "no_retention", "SAFE_JOB_ID": "mine"}
    stopped(project, SAFE_JOB_ID="mine")
    assert project.runs() == [("no_retention", 42, False)]
    (project.folder / "out" / "zz_other").mkdir()
    ODD[odd](project.folder / "out" / "zz_other" / "config.json")
    result = project.run("full_training.sh", FAKE_STEPS="100", **variables)
    assert result.returncode == 0, result.stderr
    assert "goes on" in result.stdout
    assert len(list((project.folder / "out").glob("*_no_retention"))) == 1
    assert f"passed over: {project.folder / 'out' / 'zz_other' / 'config.json'}" in result.stderr


def test_a_search_for_runs_that_fails_starts_nothing(project):
    """No answer is not the answer that there is no run."""
    find = project.folder / "scripts" / "find_runs.py"
    find.write_text("raise SystemExit(3)\n")
    result = project.run("full_training.sh", VARIANT_ORDER="no_retention full_retention")
    assert result.returncode != 0
    assert project.runs() == []
    assert "no_retention, seed 42: failed with exit code 3" in result.stderr


def test_epochs_that_cannot_be_counted_start_nothing(project):
    (project.folder / "scripts" / "steps_of_epochs.py").write_text("raise SystemExit(2)\n")
    result = project.run("full_training.sh", VARIANT_ORDER="no_retention", NUM_EPOCHS="3")
    assert result.returncode != 0
    assert project.runs() == []


def private_folder(project, path, **variables):
    return subprocess.run(
        ["bash", "-c", f'source scripts/common.sh; private_folder "{path}"'],
        cwd=project.folder, env=project.environment(**variables), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def test_a_folder_of_caches_is_made_private_and_kept(project, tmp_path):
    path = tmp_path / "safe-me"
    assert private_folder(project, path) == str(path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert private_folder(project, path) == str(path)


def by_a_link(path):
    (path.parent / "theirs").mkdir()
    path.symlink_to(path.parent / "theirs")


def writable_by_all(path):
    path.mkdir()
    path.chmod(0o777)


@pytest.mark.parametrize("plant", [by_a_link, writable_by_all, lambda path: path.touch()], ids=["link", "open", "file"])
def test_a_folder_of_caches_that_others_may_have_filled_is_not_used(project, tmp_path, plant):
    """Bytecode that they put there would be run."""
    path = tmp_path / "safe-me"
    plant(path)
    chosen = Path(private_folder(project, path, TMPDIR=tmp_path).strip())
    assert chosen != path
    assert chosen.stat().st_mode & 0o777 == 0o700
    assert list(chosen.iterdir()) == []


def test_a_folder_of_caches_of_another_user_is_not_used(project, tmp_path):
    """A fake `id` makes this user another one than the owner of the folder."""
    path = tmp_path / "safe-me"
    path.mkdir(mode=0o700)
    program(project.folder / "slurm" / "id", "#!/bin/bash\necho 4321\n")
    assert Path(private_folder(project, path, TMPDIR=tmp_path).strip()) != path


@pytest.mark.parametrize("plant", [None, by_a_link, writable_by_all], ids=["own", "link", "open"])
def test_the_image_uses_no_folder_of_caches_that_others_may_have_filled(project, tmp_path, plant):
    path = tmp_path / "safe-me"
    if plant is not None:
        plant(path)
    text = (ROOT / "containers" / "parts" / "environment.sh").read_text()
    text = text.replace('"/tmp/safe-$(id -u)"', f'"{path}"').replace("/tmp/safe-X", f"{tmp_path}/safe-X")
    done = subprocess.run(
        ["sh", "-euc", f'{text}\necho "$PYTHONPYCACHEPREFIX"'],
        env=project.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    chosen = Path(done.stdout.strip()).parent
    assert (chosen == path) == (plant is None)
    assert chosen.stat().st_mode & 0o777 == 0o700
