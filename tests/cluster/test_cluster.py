"""The user's commands on a real Slurm and a real Apptainer: two nodes, one image, the embedded model.

A job may take minutes on a busy machine; nothing here is about how long.
"""

import json
import re
import time

import pytest
import torch
from safetensors.torch import load_file

from safe_train.runs.layout import read_config
from safe_train.training.build import attach, load_base_model
from tests.files import assert_same_bytes
from tests.tolerances import PARALLEL, relative_error

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LITERAL = "apptainer exec containers/safe.sif sbatch scripts/overfitting_test.sh"
BINDS = {"APPTAINER_BIND": "/etc/slurm,/run/munge"}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # sums are then taken in the same order in every run
OF_THE_OVERFITTING = ["no_retention", "soft_retention", "full_safe"]
FIVE = ["no_retention", "soft_retention", "fisher_retention", "nullspace_retention", "full_retention"]
OVERFITTING = ONE_THREAD | {
    "VARIANT_ORDER": " ".join(OF_THE_OVERFITTING), "NUM_WORKERS": "2", "SUBSET_SIZE": "32", "NUM_EPOCHS": "1",
    "VAL_SIZE": "16", "MAX_EVAL_BATCHES": "1",
}  # fmt: skip
STEPS = 30
TRAINING = ONE_THREAD | {
    "TRAIN_BS": "4", "MAX_VQA_VAL_SAMPLES": "8", "MAX_AUDIO_VAL_SAMPLES": "8", "NULL_SPACE_MIN_SAMPLES": "16",
    "SAFE_SET": f"optimization.max_steps={STEPS} checkpoint_every=5 log_every=1 retention.fisher_samples=8 "
    "data.max_train_vl=64 data.max_train_audio=64",
}  # fmt: skip
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}


def job_id(submitted):
    assert submitted.returncode == 0, submitted
    return re.findall(r"\d+", submitted.stdout)[-1]


def fields(cluster, job):
    """What the controller knows of a job, by name."""
    shown = cluster.run(f"scontrol show job --oneliner {job}")
    assert shown.returncode == 0, shown.stderr
    return dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)


def wait_until(condition, what, seconds=900):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.25)


def processes_of(job):
    """A shell function, `processes_of_job`: the ids of the job's step daemons, then of its processes."""
    return f"""
    processes_of_job() {{
      local file
      for file in /proc/[0-9]*/cmdline; do
        ! tr '\\0' ' ' <"$file" 2>/dev/null | grep -q '^slurmstepd: \\[{job}\\.' || basename "${{file%/*}}"
      done
      for file in /proc/[0-9]*/environ; do
        ! tr '\\0' '\\n' <"$file" 2>/dev/null | grep -qx 'SLURM_JOB_ID={job}' || basename "${{file%/*}}"
      done
    }}
    """


def let_go(cluster, job):
    """Lets a requeued job start, where Slurm waits two minutes, if nothing of its last start is left.

    What its processes still have to say would be taken for the end of the next start.
    """
    left = cluster.run(f"{processes_of(job)}processes_of_job", user=0)
    assert left.returncode == 0, left.stderr
    if not left.stdout:
        cluster.run(f"scontrol update job={job} StartTime=now", user=0)


def wait_for_end(cluster, job):
    """The job's last state; a job that waits after a requeue is let go after a few seconds.

    Not earlier: a node takes a start within the second of the requeue for the one that was revoked, and the job fails
    with "Job credential revoked". While a job goes back into the queue, it may show for a moment how its last start
    ended: an end has to last.
    """
    seen = []
    waits_since = None

    def has_ended():
        nonlocal waits_since
        now = fields(cluster, job)
        if now["JobState"] == "PENDING" and now.get("Reason") == "BeginTime":
            waits_since = waits_since or time.monotonic()
            if time.monotonic() > waits_since + 4:
                let_go(cluster, job)
        else:
            waits_since = None
        seen.append(now["JobState"])
        return len(seen) >= 20 and set(seen[-20:]) <= ENDED

    wait_until(has_ended, f"the end of job {job}")
    return seen[-1]


def has_restarted(cluster, job):
    """Whether the job went back into the queue once; one that has ended instead never will."""
    now = fields(cluster, job)
    assert now["Restarts"] == "1" or now["JobState"] not in ENDED, now
    return now["Restarts"] == "1"


def log(cluster, name):
    return (cluster.project / name).read_text()


def run_folders(cluster, root):
    return sorted(path.parent for path in (cluster.project / root).glob("*/config.json"))


def assert_same_training(folder, expected):
    """The last checkpoints hold the same trained weights and the same state of the optimizer, bit for bit."""
    last, reference = (max((run / "checkpoints").glob("step-*")) for run in (folder, expected))
    assert last.name == reference.name
    assert int(last.name.removeprefix("step-")) == STEPS
    for name in ("adapter.safetensors", "optimizer.safetensors"):
        assert_same_bytes(last / name, reference / name)


def wait_for_step(cluster, root, step):
    """Waits until a training has taken that many steps, and has as many left to take."""

    def has_come_there():
        paths = (cluster.project / root).glob("*/metrics.jsonl")
        return sum(len(path.read_text().splitlines()) for path in paths) >= step

    wait_until(has_come_there, f"step {step}")


@pytest.fixture(scope="session")
def uninterrupted(cluster):
    """A finished sweep of all five variants as an array with its summary: array's id, and run folder by variant."""
    command = "bash scripts/submit_sweep.sh scripts/full_training.sh"
    submitted = cluster.run(
        command, variables=TRAINING | {"VARIANT_ORDER": " ".join(FIVE), "OUTPUT_ROOT": "runs/sweep"}
    )
    array, summary = re.search(r"array (\d+), 5 tasks:.*summary job (\d+)", submitted.stdout, re.DOTALL).groups()
    assert wait_for_end(cluster, summary) == "COMPLETED", log(cluster, f"safe-training-{array}-summary.out")
    folders = {
        json.loads((path / "config.json").read_text())["variant"]: path for path in run_folders(cluster, "runs/sweep")
    }
    assert set(folders) == set(FIVE)
    return array, folders


def test_without_binds_the_printed_line_makes_the_literal_command_work(cluster):
    refused = cluster.run(LITERAL, variables=OVERFITTING)
    assert refused.returncode == 78
    line = refused.stderr.splitlines()[-1]
    assert line.startswith("export APPTAINER_BIND=")

    job = job_id(cluster.run(f"{line}\n{LITERAL}", variables=OVERFITTING))
    state = wait_for_end(cluster, job)
    written = log(cluster, f"safe-overfitting-{job}.out")
    assert state == "COMPLETED", written
    assert fields(cluster, job)["ExitCode"] == "0:0"
    assert re.findall(r"(\w+), seed 42: starts", written) == OF_THE_OVERFITTING

    folders = run_folders(cluster, "experiments/overfitting/runs")
    assert [folder.name.partition("_")[2] for folder in folders] == OF_THE_OVERFITTING
    for folder in folders:
        for name in ("config.json", "metrics.json", "subset_indices.json"):
            assert json.loads((folder / name).read_text())
        assert list((folder / "checkpoints").glob("step-*/*.safetensors"))
    table = (folders[0].parent / f"report_{job}.txt").read_text()
    rows = [line.split()[0] for line in table.splitlines() if line.split()[:1]]
    registered = ["no_retention", "fisher_retention", "full_retention"]  # what the three are in the registry
    assert list(dict.fromkeys(name for name in rows if name in registered)) == registered
    assert table in written
    assert (folder.parent / f"report_{job}.html").stat().st_size > 0


def test_nothing_of_the_container_is_in_the_environment_of_the_job(cluster):
    (cluster.project / "env.sh").write_text("#!/bin/bash\nenv\n")
    command = "apptainer exec containers/safe.sif sbatch --wait --output=env.out env.sh"
    assert cluster.run(command, variables=BINDS | {"HOST_VARIABLE": "kept"}).returncode == 0
    seen = dict(line.split("=", 1) for line in log(cluster, "env.out").splitlines() if "=" in line)
    assert [name for name in seen if name.startswith(("APPTAINER", "SINGULARITY"))] == []
    assert "LD_LIBRARY_PATH" not in seen
    assert (seen["HOST_VARIABLE"], seen["SAFE_IMAGE"]) == ("kept", "/home/dev/safe/containers/safe.sif")
    assert "/opt/safe/bin" not in seen["PATH"]


def test_squeue_and_scancel_from_inside(cluster):
    (cluster.project / "sleep.sh").write_text("#!/bin/bash\nsleep 600\n")
    job = job_id(cluster.run("sbatch --output=/dev/null sleep.sh"))
    listed = cluster.run("apptainer exec containers/safe.sif squeue --noheader --format=%i", variables=BINDS)
    assert job in listed.stdout.split()
    assert cluster.run(f"apptainer exec containers/safe.sif scancel {job}", variables=BINDS).returncode == 0
    assert wait_for_end(cluster, job) == "CANCELLED"


def test_srun_from_inside_runs_on_both_nodes(cluster):
    command = "apptainer exec containers/safe.sif srun --nodes=2 --ntasks=2 bash -c 'echo $SLURMD_NODENAME'"
    ran = cluster.run(command, variables=BINDS)
    assert sorted(ran.stdout.split()) == ["n1", "n2"], ran.stderr


def test_configuration_without_munge(cluster):
    refused = cluster.run(LITERAL, variables={"APPTAINER_BIND": "/etc/slurm"})
    assert refused.returncode == 78
    assert refused.stderr.splitlines()[-1] == 'export APPTAINER_BIND="${APPTAINER_BIND:+$APPTAINER_BIND,}/run/munge"'


def test_an_unknown_variant_is_refused_on_the_node_before_anything_runs(cluster):
    job = job_id(
        cluster.run(LITERAL, variables=BINDS | {"VARIANT_ORDER": "no_retention nonsense", "OUTPUT_ROOT": "runs/x"})
    )
    assert wait_for_end(cluster, job) == "FAILED"
    assert fields(cluster, job)["ExitCode"] == "2:0"
    assert "unknown variant 'nonsense'" in log(cluster, f"safe-overfitting-{job}.out")
    assert run_folders(cluster, "runs/x") == []


def test_an_array_of_all_five_variants_and_its_summary(cluster, uninterrupted):
    array, folders = uninterrupted
    for folder in folders.values():
        config = json.loads((folder / "config.json").read_text())
        assert config["job"] == array
        assert (folder / "metrics.json").exists()
    report = (cluster.project / "runs" / "sweep" / f"report_{array}.txt").read_text()
    assert all(variant in report for variant in folders)


def test_usr1_in_training_requeues_and_ends_with_the_same_weights(cluster, uninterrupted):
    variables = TRAINING | {"VARIANT_ORDER": "full_retention", "OUTPUT_ROOT": "runs/usr1"}
    job = job_id(cluster.run("sbatch scripts/full_training.sh", variables=variables))
    wait_for_step(cluster, "runs/usr1", 8)
    assert cluster.run(f"scancel --batch --signal=USR1 {job}").returncode == 0
    wait_until(lambda: has_restarted(cluster, job), "the requeue")
    stopped_at = max(path.name for path in (cluster.project / "runs/usr1").glob("*/checkpoints/step-*"))
    assert int(stopped_at.removeprefix("step-")) < STEPS

    state = wait_for_end(cluster, job)
    written = log(cluster, f"safe-training-{job}.out")
    assert state == "COMPLETED", written
    assert f"job {job} requeued after 0 restarts" in written
    assert "full_retention, seed 42: goes on" in written
    (folder,) = run_folders(cluster, "runs/usr1")
    assert_same_training(folder, uninterrupted[1]["full_retention"])
    with pytest.raises(AssertionError, match=r"adapter\.safetensors"):
        assert_same_training(folder, uninterrupted[1]["fisher_retention"])


def test_a_lost_node_requeues_and_the_job_finishes_on_the_other(cluster, uninterrupted):
    variables = TRAINING | {"VARIANT_ORDER": "full_retention", "OUTPUT_ROOT": "runs/lost"}
    job = job_id(cluster.run("sbatch scripts/full_training.sh", variables=variables))
    wait_for_step(cluster, "runs/lost", 8)
    lost = fields(cluster, job)["BatchHost"]
    lose_node(cluster, lost, job)
    try:
        wait_until(lambda: has_restarted(cluster, job), "the requeue")
        state = wait_for_end(cluster, job)
        written = log(cluster, f"safe-training-{job}.out")
        assert state == "COMPLETED", written
        assert fields(cluster, job)["BatchHost"] == ({"n1", "n2"} - {lost}).pop()
        assert "full_retention, seed 42: goes on" in written
        (folder,) = run_folders(cluster, "runs/lost")
        assert_same_training(folder, uninterrupted[1]["full_retention"])
    finally:
        cluster.run(f"slurmd -N {lost}", user=0)


def trained_weights(folder, steps):
    """The last checkpoint's weights as one vector, in float64."""
    last = max((folder / "checkpoints").glob("step-*"))
    assert last.name == f"step-{steps:07d}"
    return as_vector(load_file(last / "adapter.safetensors"))


def initial_weights(folder):
    config = read_config(folder)
    return as_vector(attach(load_base_model(config), config).trainable_parameters())


def as_vector(weights):
    return torch.cat([weights[name].detach().flatten().double() for name in sorted(weights)])


def test_two_processes_on_two_nodes_equal_one(cluster):
    """Also after an interruption, which both processes have to hear of."""
    settings = TRAINING["SAFE_SET"].replace(f"max_steps={STEPS}", "max_steps=8")
    # Steps long enough for a signal to come between the third and the last.
    short = TRAINING | {"TRAIN_BS": "16", "SAFE_SET": f"{settings} evaluation.max_vl=4"}
    jobs = {}
    parallel = "--nodes=2 --ntasks=2 --ntasks-per-node=1"
    for name, options, variant in (
        ("one", "", "full_retention"), ("two", parallel, "full_retention"), ("other", "", "fisher_retention")
    ):  # fmt: skip
        variables = short | {"OUTPUT_ROOT": f"runs/{name}", "VARIANT_ORDER": variant}
        jobs[name] = job_id(cluster.run(f"sbatch {options} scripts/full_training.sh", variables=variables))
        if name == "two":
            wait_for_step(cluster, "runs/two", 3)
            assert cluster.run(f"scancel --batch --signal=USR1 {jobs[name]}").returncode == 0
        assert wait_for_end(cluster, jobs[name]) == "COMPLETED", log(cluster, f"safe-training-{jobs[name]}.out")
    interrupted = log(cluster, f"safe-training-{jobs['two']}.out")
    assert int(re.search(r"stopped after step (\d+)", interrupted)[1]) < 8
    assert "full_retention, seed 42: goes on" in interrupted
    folders = {name: run_folders(cluster, f"runs/{name}")[0] for name in ("one", "two")}
    assert json.loads((folders["two"] / "metrics.json").read_text())["training"]["processes"] == 2
    start = initial_weights(folders["one"])
    one, two = (trained_weights(folder, 8) - start for folder in folders.values())
    assert relative_error(two, one) < PARALLEL[torch.float32]
    # Another variant's first steps are further away than that, although rows and initial weights are the same.
    other = trained_weights(run_folders(cluster, "runs/other")[0], 8) - start
    assert relative_error(other, one) > PARALLEL[torch.float32]


def lose_node(cluster, node, job):
    """Ends the node's daemon and everything of the job, as a power cut does: by the process ids of each.

    The daemon and the job's step daemons go first: they would tell the controller how the job's processes ended.
    """
    script = f"""
    {processes_of(job)}
    kill -9 "$(cat /run/slurmd-{node}.pid)"
    for process in $(processes_of_job); do kill -9 "$process" 2>/dev/null || true; done
    """
    assert cluster.run(script, user=0).returncode == 0
