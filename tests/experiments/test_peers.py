"""The peers' rows, formulas, choice of settings and table."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F

from experiments.peers import arms as peers
from experiments.peers import skills
from experiments.peers.arms import ARMS, PenalizedTrainer
from experiments.peers.run import CHOOSING_SEEDS, chosen, criterion, measured
from experiments.peers.skills import NEW, OLD, PROTECTED, UNPROTECTED, build_task, collate, share_right
from experiments.peers.table import require_choices, table
from safe_train.errors import InputError

NUM_LINES = {"validation": 2, "test": 5}


@pytest.fixture(scope="module")
def task():
    """A base that has hardly learned anything, which says nothing about the arms and does for their formulas."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skills, "_BASE_STEPS", 20)
        return build_task(0, kept=3)


def test_a_skill_makes_of_letters_what_its_name_says():
    letters = (3, 0, 2, 1)
    made = {name: skill(letters) for name, skill in OLD.items()} | {NEW: skills.double(letters)}
    assert made == {
        "reverse": (1, 2, 0, 3), "sort": (0, 1, 2, 3), "rotate": (0, 2, 1, 3), "next": (4, 1, 3, 2),
        "swap": (0, 3, 1, 2), "copy": (3, 0, 2, 1), "double": (3, 3, 0, 0, 2, 2, 1, 1),
    }  # fmt: skip


def test_no_row_is_in_two_parts(task):
    def letters(rows):
        return {tuple(row["input_ids"][1:5]) for row in rows}

    parts = [letters(task.held_out[part]["sort"]) for part in ("validation", "test")]
    parts += [letters(task.new), letters(task.kept)]
    assert all(not a & b for number, a in enumerate(parts) for b in parts[:number])
    assert len(task.kept) == 3 * len(PROTECTED)
    assert set(PROTECTED) | set(UNPROTECTED) == set(OLD)


def test_a_row_is_right_where_every_token_of_its_answer_is():
    class Fixed:
        def eval(self):
            return self

        def __call__(self, input_ids, attention_mask):
            logits = F.one_hot(input_ids.roll(-1, dims=1), 20).float()  # the next token, always
            logits[1, -2] = 0  # and in the second row, not the last
            return type("Out", (), {"logits": logits})

    rows = [skills._row("sort", (3, 0, 2, 1)), skills._row("sort", (1, 1, 2, 1))]
    assert share_right(Fixed(), rows) == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_an_arm_trains_and_gives_a_model_for_each_of_its_settings(task, monkeypatch, name):
    monkeypatch.setattr(peers, "STEPS", 12)
    monkeypatch.setattr(peers, "_STOPS", (4, 8))
    arm = ARMS[name]
    several = "step" in arm.settings[0] or (not arm.needs_old_rows and "share" in arm.settings[0])
    settings = [{**arm.settings[0], "step": stop} for stop in (4, 8)] if "step" in arm.settings[0] else arm.settings
    original = copy.deepcopy(task.model.state_dict())
    lines = list(measured(arm, settings if several else settings[:1], task, 0, "validation"))
    assert [line["setting"] for line in lines] == [dict(s) for s in (settings if several else settings[:1])]
    assert all(line["right"].keys() == {*OLD, NEW} for line in lines)
    assert all(torch.equal(value, original[key]) for key, value in task.model.state_dict().items())


def penalty_of(monkeypatch, task, name, setting):
    """The term that an arm adds to the loss, as it has handed it to the trainer, and the model."""
    found = {}

    def caught(model, _rows, _rate, _seed, kind, *, penalty):
        assert kind is PenalizedTrainer
        found.update(model=model, penalty=penalty)

    monkeypatch.setattr(peers, "train", caught)
    next(ARMS[name].run(task, setting, 0))
    return found["model"], found["penalty"]


def moved(model):
    """Moves the trained weights, and gives those from before."""
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained:
            parameter += 0.1 * torch.randn_like(parameter)
    return trained, before


def test_l2_sp_is_half_the_squared_distance(monkeypatch, task):
    model, penalty = penalty_of(monkeypatch, task, "L2-SP", {"rate": 1e-3, "weight": 0.3})
    assert penalty(None, None, None).item() == 0.0
    trained, before = moved(model)
    expected = 0.15 * sum((p.double() - b.double()).square().sum() for p, b in zip(trained, before, strict=True))
    assert penalty(None, None, None).item() == pytest.approx(expected.item(), rel=1e-4)


def test_ewc_is_avalanches(monkeypatch, task):
    """The squared gradient of the mean loss of a mini-batch; nine rows are one."""
    model, penalty = penalty_of(monkeypatch, task, "EWC", {"rate": 1e-3, "weight": 1e6})
    trained, before = moved(model)
    original = copy.deepcopy(task.model).requires_grad_(True).double().eval()
    weights = dict(original.named_parameters())
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(original(**collate(task.kept)).loss, [weights[name] for name in names])
    steps = [(p.double() - b.double()).square() for p, b in zip(trained, before, strict=True)]
    expected = 1e6 * sum((g.square() * s).sum() for g, s in zip(gradients, steps, strict=True))
    assert penalty(None, None, None).item() == pytest.approx(expected.item(), rel=1e-3)


def test_lwf_looks_at_prompts_alone(monkeypatch, task):
    _, penalty = penalty_of(monkeypatch, task, "LwF on the new rows' prompts", {"rate": 1e-3, "weight": 2.0})
    inputs = collate(task.new[:4])
    with torch.no_grad():
        old = task.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    assert penalty(None, inputs, old).item() == pytest.approx(0.0, abs=1e-6)
    changed = old.clone()
    changed[:, 5:] += torch.randn_like(changed[:, 5:])  # of what predicts the answer, nothing counts
    assert penalty(None, inputs, changed).item() == pytest.approx(0.0, abs=1e-6)
    changed = old.double() + torch.randn_like(old).double()
    prompts = [values[:, :5].double().log_softmax(-1) for values in (old, changed)]
    expected = 2.0 * (prompts[0].exp() * (prompts[0] - prompts[1])).sum(-1).mean()
    assert penalty(None, inputs, changed).item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_averaged_model_lies_between(monkeypatch, task):
    monkeypatch.setattr(peers, "STEPS", 12)
    models = {setting["share"]: model for setting, model in peers._averaged(task, {"rate": 1e-2}, 0)}
    tuned = models[0.9].merge_and_unload().state_dict()
    half, start = models[0.5].merge_and_unload().state_dict(), task.model.state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    whole = (tuned[name] - start[name]) / 0.9
    assert whole.abs().max() > 1e-4
    torch.testing.assert_close(half[name] - start[name], 0.5 * whole, rtol=1e-3, atol=1e-6)


# --- choice and table


def line(arm, setting, seed, part, new, protected):
    right = dict.fromkeys(UNPROTECTED, 0.0) | dict.fromkeys(PROTECTED, protected) | {NEW: new}
    return {"arm": arm, "kept": 3, "setting": dict(setting), "seed": seed, "part": part, "right": right}


def test_a_setting_is_chosen_by_what_is_new_and_what_is_protected():
    arm, greedy = ARMS["lower rate"], ARMS["plain"]
    shares = {setting["rate"]: (0.5, 0.9) for setting in arm.settings} | {1e-3: (0.9, 0.8), 4e-3: (1.0, 0.1)}
    lines = [
        line(a.name, setting, seed, "validation", *shares[setting["rate"]])
        for a in (arm, greedy) for setting in arm.settings for seed in CHOOSING_SEEDS
    ]  # fmt: skip
    assert chosen(arm, 3, lines)["rate"] == 1e-3
    assert chosen(greedy, 3, lines)["rate"] == 4e-3
    assert criterion(arm, lines[0]["right"]) == pytest.approx(0.7)


def test_the_table_has_means_and_intervals():
    arm = ARMS["lower rate"]
    lines = [line(arm.name, s, seed, "validation", 0.5, 0.5) for s in arm.settings for seed in CHOOSING_SEEDS]
    lines += [line(arm.name, arm.settings[0], seed, "test", 1.0, 0.6 + seed / 50) for seed in range(5)]
    require_choices(lines)
    replay = ARMS["replay_only"]
    lines += [line(replay.name, s, seed, "validation", 0.5, 0.5) for s in replay.settings for seed in CHOOSING_SEEDS]
    lines += [line(replay.name, replay.settings[0], seed, "test", 1.0, 0.5) for seed in range(5)]
    row, of_replay = table(lines, 3).splitlines()[2:]
    # 64 +- 2.776 * 3.162 / sqrt(5), half of it as the mean of both, and Clopper and Pearson's limits of 150 and of 450
    # rows that agree
    assert row == (
        "| lower rate | LoRA | no | rate 0.0002 | 100.0 (97.6 to 100.0) | 64.0 (60.1 to 67.9) | 0.0 (0.0 to 0.8) "
        "| +7.0 (+5.0 to +9.0) |"
    )
    assert of_replay.endswith("|  |")
    with pytest.raises(InputError, match="expected 18 lines of validation, got 17"):
        require_choices(lines[1:])


def test_every_arm_has_as_many_tries():
    assert {len(arm.settings) for arm in ARMS.values()} == {9}
    assert all(json.loads(json.dumps(dict(setting))) == setting for arm in ARMS.values() for setting in arm.settings)
