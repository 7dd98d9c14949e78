"""Small folders in the layout of AudioCaps and VQA v2, and a pack made from them by the commands."""

import pytest

from experiments.overfitting import create_subset_manifest, create_val_manifest, package_subset


@pytest.fixture(scope="session")
def vqa_files(small_data):
    """Arguments for the official files of the validation questions."""
    folder = small_data / "vqa"
    return [
        "--questions", str(folder / "v2_OpenEnded_mscoco_val2014_questions.json"),
        "--annotations", str(folder / "v2_mscoco_val2014_annotations.json"),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def manifests(small_data, vqa_files, tmp_path_factory):
    """A list of 12 clips and a list of 20 questions."""
    folder = tmp_path_factory.mktemp("manifests")
    clips, questions = folder / "subset_manifest.json", folder / "val_manifest.json"
    source = str(small_data / "audiocaps")
    create_subset_manifest.main(["--source-root", source, "--subset-size", "12", "--output", str(clips)])
    create_val_manifest.main([*vqa_files, "--subset-size", "20", "--output", str(questions)])
    return clips, questions


@pytest.fixture(scope="session")
def make_pack(small_data, manifests):
    """Runs ``package_subset`` for a destination; other options may follow."""

    def make(destination, *options):
        clips, questions = map(str, manifests)
        given = ["--manifest", clips, "--val-manifest", questions, "--source-root", str(small_data / "audiocaps")]
        package_subset.main([*given, "--dest-root", str(destination), *map(str, options)])
        return destination

    return make


@pytest.fixture(scope="session")
def pack(make_pack, tmp_path_factory):
    """A whole pack; tests read it only."""
    return make_pack(tmp_path_factory.mktemp("packs") / "data_pack")
