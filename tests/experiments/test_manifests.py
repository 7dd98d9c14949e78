"""The commands that draw clips and questions: what they draw, that they draw the same again, and bad input."""

import json
import os
import shutil

import pytest

from experiments.overfitting import create_subset_manifest, create_val_manifest
from experiments.overfitting.create_val_manifest import majority_answer


def draw_questions(vqa_files, output, *options):
    create_val_manifest.main([*vqa_files, "--output", str(output), *map(str, options)])
    return json.loads(output.read_text())


def draw_clips(root, output, *options):
    create_subset_manifest.main(["--source-root", str(root), "--output", str(output), *map(str, options)])
    return json.loads(output.read_text())


def failing(main, *arguments):
    """The exit code and the last line on standard error."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def test_questions_have_the_fields_of_the_format(vqa_files, small_data, tmp_path):
    manifest = draw_questions(vqa_files, tmp_path / "new" / "val.json", "--subset-size", 20)
    header = {key: value for key, value in manifest.items() if key != "entries"}
    assert set(header) == {"subset_name", "description", "seed", "source_dataset"}
    assert (header["subset_name"], header["seed"], header["source_dataset"]) == (
        "vqa_val_overfit_v1", 123, "VQA v2 validation",
    )  # fmt: skip
    annotations = json.loads((small_data / "vqa" / "v2_mscoco_val2014_annotations.json").read_text())["annotations"]
    official = {annotation["question_id"]: annotation for annotation in annotations}
    ids = [entry["question_id"] for entry in manifest["entries"]]
    assert ids == sorted(set(ids))
    assert len(ids) == 20
    for entry in manifest["entries"]:
        annotation = official[entry["question_id"]]
        assert entry["answers"] == [answer["answer"] for answer in annotation["answers"]]
        assert entry["majority_answer"] == annotation["multiple_choice_answer"]
        assert entry["image_filename"] == f"COCO_val2014_{annotation['image_id']:012d}.png"


def test_clips_have_the_fields_of_the_format(small_data, tmp_path):
    manifest = draw_clips(small_data / "audiocaps", tmp_path / "clips.json", "--subset-size", 12)
    assert manifest["audio_rel_root"] == "audio/train"
    assert manifest["metadata_columns"] == ["audiocap_id", "youtube_id", "start_time", "caption"]
    assert (manifest["subset_name"], manifest["seed"]) == ("audiocaps_overfit_v1", 42)
    assert len({entry["audiocap_id"] for entry in manifest["entries"]}) == 12
    for entry in manifest["entries"]:
        assert set(entry) == {"audiocap_id", "youtube_id", "start_time", "caption", "audio_relpath"}
        assert entry["audio_relpath"] == f"audio/train/{entry['youtube_id']}.wav"


def test_the_draw_depends_on_the_seed_alone(vqa_files, small_data, tmp_path):
    for draw, source in ((draw_questions, vqa_files), (draw_clips, small_data / "audiocaps")):
        files = [tmp_path / f"{draw.__name__}{number}.json" for number in range(3)]
        for file, seed in zip(files, (7, 7, 8), strict=True):
            draw(source, file, "--subset-size", 10, "--seed", seed)
        same, again, other = (file.read_bytes() for file in files)
        assert same == again
        assert json.loads(same)["entries"] != json.loads(other)["entries"]


def test_the_order_of_the_questions_in_the_file_does_not_matter(small_data, vqa_files, tmp_path):
    folder = tmp_path / "vqa"
    shutil.copytree(small_data / "vqa", folder)
    path = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    content = json.loads(path.read_text())
    content["questions"].reverse()
    path.write_text(json.dumps(content))
    reversed_files = [word.replace(str(small_data / "vqa"), str(folder)) for word in vqa_files]
    drawn = [
        draw_questions(files, tmp_path / f"{index}.json", "--subset-size", 10)
        for index, files in enumerate((vqa_files, reversed_files))
    ]
    assert drawn[0] == drawn[1]


def test_clips_without_audio_are_not_drawn(small_data, tmp_path):
    source = tmp_path / "audiocaps"
    shutil.copytree(small_data / "audiocaps", source)
    gone = sorted((source / "audio" / "train").iterdir())[::2]
    for path in gone:
        path.unlink()
    manifest = draw_clips(source, tmp_path / "clips.json", "--subset-size", 20)
    assert all((source / entry["audio_relpath"]).is_file() for entry in manifest["entries"])
    assert failing(create_subset_manifest.main, "--source-root", source, "--subset-size", 21) == 2


@pytest.mark.parametrize(
    ("answers", "majority"),
    [(("3", "4", "3"), "3"), (("Yes", "yes ", "no"), "yes"), (("b", "a", "a", "b"), "b")],
)
def test_the_majority_answer(answers, majority):
    assert majority_answer(answers) == majority


def test_too_few_questions(vqa_files, tmp_path, capsys):
    output = tmp_path / "val.json"
    assert failing(create_val_manifest.main, *vqa_files, "--subset-size", 41, "--output", output) == 2
    assert "expected at least 41 questions, got 40; lower --subset-size" in capsys.readouterr().err
    assert not output.exists()


def test_a_missing_file_is_one_line(tmp_path, capsys):
    questions = tmp_path / "none.json"
    assert failing(create_val_manifest.main, "--questions", questions) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {questions}: expected a readable file")


@pytest.mark.parametrize(
    "options", [["--subset-size", "0"], ["--seed", "-1"], ["--subset", "3"], ["--seed", "x"]], ids=" ".join
)
def test_bad_usage_is_one_line(options, capsys):
    assert failing(create_val_manifest.main, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: python -m experiments.overfitting.create_val_manifest: ")


def test_an_output_that_cannot_be_written_leaves_nothing_behind(vqa_files, tmp_path, capsys, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("pathlib.Path.replace", full)
    output = tmp_path / "val.json"
    assert failing(create_val_manifest.main, *vqa_files, "--subset-size", 5, "--output", output) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
