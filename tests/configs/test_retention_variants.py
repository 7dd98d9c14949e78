"""The registry against the table of the ablation: KL, Fisher, null space and replay of each variant."""

import dataclasses
import subprocess
import sys

import pytest

from configs import retention_variants
from configs.retention_variants import (
    OVERFITTING_VARIANTS,
    RETENTION_VARIANTS,
    RetentionVariantConfig,
    get_variant_config,
    list_variants,
)

# name: effective coefficients of KL, Fisher and replay, null space (rank and samples) or None
TABLE = {
    "no_retention": (0.0, 0.0, 0.0, None),
    "soft_retention": (0.2, 0.0, 0.0, None),
    "fisher_retention": (0.2, 0.1, 0.0, None),
    "nullspace_retention": (0.2, 0.0, 0.0, (8, 128)),
    "full_retention": (0.2, 0.1, 0.0, (8, 128)),
    "fisher_only": (0.0, 0.1, 0.0, None),
    "nullspace_only": (0.0, 0.0, 0.0, (8, 128)),
    "replay_only": (0.0, 0.0, 0.2, None),
}
VALID = {
    "name": "x",
    "description": "",
    "retention_loss_weight": 1.0,
    "distillation_weight": 0.2,
    "fisher_weight": 0.1,
    "enable_null_space": False,
}


def test_the_registry_holds_these_variants_and_each_under_its_own_name():
    """It may hold more: whoever adds one changes nothing else."""
    assert set(TABLE) <= set(RETENTION_VARIANTS)
    assert all(variant.name == name for name, variant in RETENTION_VARIANTS.items())


@pytest.mark.parametrize("name", TABLE)
def test_effective_coefficients_follow_the_table(name):
    kl, fisher, replay, null_space = TABLE[name]
    variant = get_variant_config(name)
    assert (variant.kl_coefficient, variant.fisher_coefficient, variant.replay_coefficient) == (kl, fisher, replay)
    assert variant.enable_null_space == (null_space is not None)
    if null_space:
        assert (variant.null_space_rank, variant.null_space_min_samples) == null_space


def test_each_weight_enters_its_coefficient_once():
    variant = RetentionVariantConfig(**VALID | {"retention_loss_weight": 3.0})
    assert variant.kl_coefficient == pytest.approx(3.0 * 0.2)
    assert variant.fisher_coefficient == pytest.approx(3.0 * 0.1)


def test_null_space_defaults():
    variant = RetentionVariantConfig(**VALID)
    settings = (variant.null_space_rank, variant.null_space_min_samples, variant.null_space_refresh_interval)
    assert settings == (8, 128, 4000)


@pytest.mark.parametrize(
    ("name", "mechanisms"),
    [
        ("no_retention", ()),
        ("soft_retention", ("KL",)),
        ("fisher_retention", ("KL", "Fisher")),
        ("nullspace_retention", ("KL", "null space")),
        ("full_retention", ("KL", "Fisher", "null space")),
        ("fisher_only", ("Fisher",)),
        ("nullspace_only", ("null space",)),
        ("replay_only", ("replay",)),
    ],
)
def test_mechanisms(name, mechanisms):
    assert get_variant_config(name).mechanisms == mechanisms


def test_a_retention_loss_weight_of_zero_switches_both_losses_off():
    assert RetentionVariantConfig(**VALID | {"retention_loss_weight": 0.0}).mechanisms == ()


def test_to_dict_has_the_trainers_keys():
    assert get_variant_config("fisher_retention").to_dict() == {
        "retention_loss_weight": 1.0,
        "distillation_weight": 0.2,
        "fisher_weight": 0.1,
        "enable_null_space": False,
        "null_space_rank": 8,
        "null_space_min_samples": 128,
        "null_space_refresh_interval": 4000,
        "compute_fisher_at_start": True,
    }


def test_only_a_variant_with_replay_names_its_weight():
    assert get_variant_config("replay_only").to_dict()["replay_weight"] == 0.2
    assert [name for name in TABLE if "replay_weight" in get_variant_config(name).to_dict()] == ["replay_only"]


@pytest.mark.parametrize(("weight", "computed"), [(0.0, False), (1e-9, True), (0.1, True)])
def test_fisher_is_computed_exactly_if_it_has_a_weight(weight, computed):
    assert RetentionVariantConfig(**VALID | {"fisher_weight": weight}).to_dict()["compute_fisher_at_start"] is computed


def test_an_unknown_variant_is_told_with_the_known_names_and_the_nearest():
    with pytest.raises(ValueError, match="unknown retention variant 'full_retnetion'") as caught:
        get_variant_config("full_retnetion")
    message = str(caught.value)
    assert all(name in message for name in TABLE)
    assert message.endswith("did you mean 'full_retention'?")


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match="unknown") as caught:
        get_variant_config("xyz")
    assert str(caught.value).endswith(f"known are {', '.join(RETENTION_VARIANTS)}")


def test_the_nearest_name_ignores_case():
    with pytest.raises(ValueError, match="did you mean 'full_retention'"):
        get_variant_config("FULL_RETENTION")


@pytest.mark.parametrize("field", ["retention_loss_weight", "distillation_weight", "fisher_weight", "replay_weight"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_impossible_weights_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be finite and at least 0"):
        RetentionVariantConfig(**VALID | {field: value})


@pytest.mark.parametrize("field", ["null_space_rank", "null_space_min_samples", "null_space_refresh_interval"])
def test_empty_null_spaces_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        RetentionVariantConfig(**VALID | {field: 0})


def test_variants_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_variant_config("full_retention").fisher_weight = 1.0


def test_list_variants_prints_description_mechanisms_and_weight(capsys):
    list_variants()
    listing = capsys.readouterr().out
    for name, variant in RETENTION_VARIANTS.items():
        assert f"{name}\n  {variant.description}\n" in listing
    assert "mechanisms: none\n  retention loss weight: 0\n" in listing
    full = "mechanisms: KL (0.2), Fisher (0.1), null space (rank 8, 128 samples)\n  retention loss weight: 1\n"
    assert full in listing


def test_a_new_variant_is_one_constant_and_one_entry(monkeypatch, capsys):
    new = RetentionVariantConfig(**VALID | {"name": "mine", "description": "My own."})
    monkeypatch.setattr(retention_variants, "RETENTION_VARIANTS", {**RETENTION_VARIANTS, "mine": new})
    assert get_variant_config("mine") is new
    list_variants()
    assert "mine\n  My own.\n" in capsys.readouterr().out


def test_the_overfitting_ablations_names_mean_registered_variants():
    assert OVERFITTING_VARIANTS == {
        "no_retention": "no_retention",
        "soft_retention": "fisher_retention",
        "full_safe": "full_retention",
    }
    assert set(OVERFITTING_VARIANTS.values()) <= set(RETENTION_VARIANTS)


def test_the_registries_do_not_import_torch():
    code = "import sys, configs.retention_variants, configs.model_configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
