"""Two processes train as one does with the same batches: weights, Fisher diagonal, bases, metrics, resuming, ends."""

import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from safe_train.configs.retention_variants import RETENTION_VARIANTS
from safe_train.distributed.processes import ALONE, Processes
from safe_train.errors import InputError
from safe_train.training.batches import require_examples_for_all_ranks
from safe_train.training.settings import OptimizationSettings
from tests.distributed.worker import toy_fisher, trained
from tests.tolerances import FISHER, PARALLEL, PARALLEL_SUBSPACE, relative_error

MORE = {
    "activation": {
        "variant": "nullspace_retention", "retention.null_space_subspace": "activation",
        "retention.null_space_one_sided": "false",
    },
    "accumulated_lora": {
        "variant": "full_retention", "optimization.gradient_accumulation_steps": "2", "model.lora_rank": "2",
    },
    # Five examples per batch, of which two or three are text-only, in length buckets.
    "text": {"variant": "full_retention", "data.text_ratio": "0.5", "data.length_buckets": "true"},
}  # fmt: skip
SEED_VARIANTS = ["no_retention", "soft_retention", "fisher_retention", "nullspace_retention", "full_retention"]
SHARDED = [*SEED_VARIANTS, "accumulated_lora"]
TRAINED = [*RETENTION_VARIANTS, *MORE]
TOLERANCE = PARALLEL[torch.float32]
pytestmark = pytest.mark.timeout(900)  # several processes, each of which imports and loads for itself


@pytest.fixture(scope="module")
def text_root(small_data, tmp_path_factory):
    """The small data, and text-only examples beside them: questions, and documents longer than any question."""
    root = tmp_path_factory.mktemp("data_with_text")
    for path in small_data.iterdir():
        if path.name != "text":
            (root / path.name).symlink_to(path)
    entries = [
        {"id": f"q{n}", "prompt": "is it red?" * (n % 3 + 1), "answer": "a star" if n % 2 else "no"} for n in range(7)
    ]
    entries += [{"id": f"d{n}", "text": "a red star, " * (n + 2)} for n in range(4)]
    (root / "text").mkdir()
    for split in ("train", "val"):
        (root / "text" / f"{split}.json").write_text(json.dumps(entries))
    return root


@pytest.fixture(scope="module")
def configured(settings, text_root):
    MORE["text"]["data.root"] = str(text_root)
    variants = {name: {"variant": name} for name in RETENTION_VARIANTS} | MORE
    return {name: settings | changes for name, changes in variants.items()}


@pytest.fixture(scope="module")
def both(run_all, configured, settings, tmp_path_factory):
    """What the two processes found in each case, as files; they are started as Slurm starts the tasks of a step."""
    folder = tmp_path_factory.mktemp("parallel")
    cases = {name: {"action": "trained", "settings": case} for name, case in configured.items()}
    for name in SHARDED:
        cases[f"sharded_{name}"] = {
            "action": "trained", "settings": configured[name] | {"parallel.shard_base": "true"}
        }  # fmt: skip
    soft, full = configured["soft_retention"], configured["full_retention"]
    cases["mean_of_means"] = {"action": "trained", "settings": soft, "processes": "MeanOfMeans"}
    cases["resumed"] = {"action": "resumed", "settings": full}
    cases["toy_fisher"] = {"action": "toy_fisher"}
    cases["own_numbers"] = {"action": "toy_fisher", "processes": "OwnNumbers"}
    cases["failures"] = {"action": "failures", "settings": configured["no_retention"]}
    run_all("-m", "tests.distributed.worker", folder, json.dumps(cases), launcher="srun")
    return lambda name: [folder / f"{name}.{rank}" for rank in (0, 1)]


@pytest.fixture(scope="module")
def of_one(configured):
    """What one process finds in a case."""
    return cache(lambda name: trained(configured[name], ALONE))


def joined(found, prefix):
    return torch.cat([value.flatten().double() for name, value in sorted(found.items()) if name.startswith(prefix)])


def change(found):
    return joined(found, "weight/") - joined(found, "start/")


def sine(one, other):
    """Of the largest principal angle between two orthonormal bases, in float64."""
    one, other = one.double(), other.double()
    return torch.linalg.matrix_norm(other - one @ (one.T @ other), ord=2).item()


@pytest.mark.parametrize("name", [*TRAINED, *(f"sharded_{name}" for name in SHARDED)])
def test_two_processes_equal_one(both, of_one, name):
    expected = of_one(name.removeprefix("sharded_"))
    first, second = map(load_file, both(name))
    assert set(first) == set(second) == set(expected)
    same = [key for key in first if not key.startswith("held/")]
    assert all(torch.equal(first[key], second[key]) for key in same)  # weights, bases, metrics
    assert relative_error(change(first), change(expected)) < TOLERANCE
    for key, value in expected.items():
        if key.startswith(("state/Fisher/fisher", "state/null space/moment")) or key.endswith("_loss"):
            assert relative_error(first[key], value) < TOLERANCE, key
        if "/vectors." in key:
            assert first[key].shape == value.shape, key
            assert sine(first[key], value) < PARALLEL_SUBSPACE[torch.float32], key


@pytest.mark.parametrize("name", SHARDED)
def test_a_sharded_base_changes_no_bit_and_is_held_in_parts(both, of_one, name):
    """Each process holds half of every decoder layer; unsharded, each holds all."""
    whole = of_one(name)
    layers = [key for key in whole if key.startswith("held/")]
    assert len(layers) == 3
    for held, sharded in zip(map(load_file, both(name)), map(load_file, both(f"sharded_{name}")), strict=True):
        assert all(torch.equal(sharded[key], value) for key, value in held.items() if key not in layers)
        assert all(held[key] == whole[key] for key in layers)
        assert all(abs(2 * int(sharded[key]) - int(whole[key])) <= 0.01 * int(whole[key]) for key in layers)


def test_negative_control_a_mean_of_means_is_another_gradient(both, of_one):
    expected = of_one("soft_retention")
    wrong = load_file(both("mean_of_means")[0])
    assert relative_error(change(wrong), change(expected)) > 100 * TOLERANCE


def test_labels_of_the_fisher_diagonal_do_not_depend_on_the_shares(both):
    """And would, if each process numbered its rows by itself."""
    expected = toy_fisher(ALONE)
    wrong = load_file(both("own_numbers")[0])
    for found in map(load_file, both("toy_fisher")):
        assert found.pop("count") == 24
        for name, fisher in found.items():
            assert relative_error(fisher, expected[name]) < FISHER[torch.float32]
            assert relative_error(wrong[name], expected[name]) > 0.01


def test_all_stop_at_the_step_at_which_one_is_told_to_and_resume_to_the_same_bits(both):
    for straight, resumed in zip(both("full_retention"), both("resumed"), strict=True):
        expected, found = load_file(straight), load_file(resumed)
        assert found.pop("stopped_at").tolist() == [3, 3]
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_the_main_process_alone_writes(both):
    folder = both("resumed")[0].parent / "resumed"
    assert {path.name for path in folder.iterdir()} == {"metrics.jsonl", "checkpoints"}
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-0000003"]


def test_an_error_of_one_process_ends_all_and_is_told_by_the_main_one(both):
    main, other = (json.loads(path.read_text()) for path in both("failures"))
    line = "InputError: process 1: clip.wav: expected audio, got nothing; replace it"
    assert main["unreadable"] == [line, 0]
    assert main["not finite"][0].startswith("NonFiniteLossError: step 1: expected finite values, got audio_loss nan")
    for ended in other.values():
        assert ended == ["PeerRankError: the main process tells the error", 0]  # the step was not taken


def test_every_process_needs_a_row():
    require_examples_for_all_ranks(OptimizationSettings(audio_batch_size=2, vl_batch_size=2), Processes(1, 2))
    with pytest.raises(InputError, match=r"optimization\.vl_batch_size: expected a row for each of 3 processes, got 2"):
        require_examples_for_all_ranks(OptimizationSettings(audio_batch_size=3, vl_batch_size=2), Processes(0, 3))
