"""Questions about images from small folders in the layouts of the packages: names, splits, files, baselines."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.real.data.vqa import (
    CATEGORY_QUESTION,
    EASY_VQA,
    NAME_QUESTION,
    STAMPS,
    build_vqa,
    category_of,
    group_pictures,
    name_of,
    read_on_white,
    read_photographs,
)
from safe_train.data.datasets.vqa import VQA
from safe_train.data.validation.check import check_root
from safe_train.errors import InputError

SHAPES = {
    "train": [
        ["what color is the shape?", "blue", 0],
        ["is there a circle?", "yes", 0],
        ["is there a circle?", "no", 1],
    ]
    + [["is there a circle?", "no", image] for image in range(2, 10)],
    "test": [
        ["what shape is present?", "circle", 0],
        ["is there a circle?", "yes", 0],
        ["is there a circle?", "no", 1],
    ],
}
CAPTIONS = {
    "animals/frog": "A frog.",
    "animals/frog-1": "A frog.",
    "animals/frogfish": "A frogfish.",
    "animals/toad_left": "A toad.",
    "animals/toad_right": "A toad.",
    "animals/otter": "An otter.",
    "animals/otter_double": "An otter.",  # the same bytes
    "animals/ermine": "A stoat.",  # looks as otter.png does in a mirror
    "animals/cartoon/cat": "A cat.",
    "animals/crab": "",
    "household/kettle": "An electric kettle.",
    "household/grave-a": "A gravestone.",
    "household/grave-b": "A headstone.",
    "symbols/plus": "A plus.",
    "space/comet": "Look, a comet!",
}


def noise(seed, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def write_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Gives the folders of two packages of a few images each."""
    root = tmp_path_factory.mktemp("packages")
    for part, (split, questions) in enumerate(SHAPES.items()):
        folder = root / EASY_VQA / "easy_vqa/data" / split
        for image in {image for *_, image in questions}:
            write_image(folder / f"images/{image}.png", noise(1_000 * part + image, (8, 8)))
        (folder / "questions.json").write_text(json.dumps(questions))
    stamps = root / STAMPS / "usr/share/tuxpaint/stamps"
    for number, (name, caption) in enumerate(CAPTIONS.items()):
        path = stamps / f"{name}.png"
        write_image(path, noise(2_000 + number))
        path.with_suffix(".txt").write_text(f"{caption}\nfr.utf8=Une image.\n")
    write_image(stamps / "animals/otter_double.png", noise(2_005))
    write_image(stamps / "animals/ermine.png", noise(2_005)[:, ::-1])
    return root.joinpath


@pytest.fixture(scope="module")
def built(packages, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    return root, build_vqa(root, packages)


@pytest.mark.parametrize(
    ("caption", "stem", "name"),
    [
        ("A frog.", "frog-1", "frog"),
        ("An electric kettle.", "kettle", "kettle"),
        ("A sea lion.", "sea_lion", "sea lion"),
        ("A great blue heron.", "heron_greatblue_flying", "heron"),
        ("A Tamworth pig.", "pig_golden2", "pig"),
        ("A “Fuji” apple.", "apple_fuji", "apple"),
        ("A pair of closed scissors.", "scissors_small_closed", "scissors"),
        ("A peacock (a male peafowl).", "peacock", "peacock"),
        ("A ripe, red tomato!", "tomato", "tomato"),
        ("A lightning bolt.", "lightningbolt", "lightning bolt"),
        ("A UK post box. Put your letter in here!", "uk_post_box", "post box"),
        ("A black cat.", "blackcat", "cat"),
        ("The full moon.", "moon_full", "moon"),
        ("An Adelaide Rosella.", "adelaide-rosella", None),  # a name of its own
        ("A palm tree.", "liberia-palm", None),  # the file is called otherwise
        ("A glass of water.", "glass", None),
        ("An eggplant with fruit.", "eggplant", None),
        ("A hoverfly resembles a honeybee drone.", "hoverfly", None),
        ("Eat your broccoli!", "broccoli", None),
        ("Two wild boars.", "wildboar", None),
        ("", "crab", None),
    ],
)
def test_names_are_noun_phrases_of_captions(caption, stem, name):
    assert name_of(caption, stem) == name


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("animals/birds/owl.png", "animal"),
        ("hobbies/music/string/cello.png", "instrument"),
        ("hobbies/camera.png", None),
        ("plants/trees/birch.png", "plant"),
        ("plants/mushrooms/cep.png", None),
        ("space/moon/moon_full.png", None),
    ],
)
def test_categories_are_of_folders(path, category):
    assert category_of(Path(path)) == category


def test_variants_of_a_picture_are_one_group(packages):
    stamps = packages(STAMPS) / "usr/share/tuxpaint/stamps"
    names = ["frog", "frog-1", "frogfish", "toad_left", "toad_right", "otter", "ermine"]
    paths = [Path(f"animals/{name}.png") for name in names]
    assert group_pictures(stamps, paths) == [
        f"animals/{name}.png" for name in ["frog", "frog", "frogfish", "toad_left", "toad_left", "otter", "otter"]
    ]


def test_photographs_that_can_be_asked_about(packages):
    pictures = read_photographs(packages(STAMPS))
    asked = {p.path.relative_to(packages(STAMPS) / "usr/share/tuxpaint/stamps").as_posix(): p for p in pictures}
    assert {name: [question.answer for question in picture.questions] for name, picture in asked.items()} == {
        "animals/ermine.png": ["animal"],  # looks as the otter does, and is called otherwise
        "animals/frog.png": ["frog", "animal"],
        "animals/frog-1.png": ["frog", "animal"],
        "animals/frogfish.png": ["frogfish", "animal"],
        "animals/otter.png": ["animal"],
        "animals/toad_left.png": ["toad", "animal"],
        "animals/toad_right.png": ["toad", "animal"],
        "household/grave-a.png": ["household"],  # two names for variants of one picture
        "household/grave-b.png": ["household"],
        "household/kettle.png": ["kettle", "household"],
    }
    assert {(question.kind, question.text) for picture in pictures for question in picture.questions} == {
        ("name", NAME_QUESTION), ("category", CATEGORY_QUESTION),
    }  # fmt: skip


def test_the_official_reader_reads_the_official_test_split_as_val(built):
    root, _ = built
    records = [record for record in VQA().records(root, "val") if record.image_id in (10_001, 10_002)]
    read = [(r.question_id, r.image_id, r.question, r.answers, r.question_type, r.answer_type) for r in records]
    assert read == [
        (10_001_000, 10_001, "what shape is present?", ("circle",) * 10, "shape", "other"),
        (10_001_001, 10_001, "is there a circle?", ("yes",) * 10, "yes/no", "yes/no"),
        (10_002_000, 10_002, "is there a circle?", ("no",) * 10, "yes/no", "yes/no"),
    ]
    assert records[0].image_path == root / "vqa/val2014/COCO_val2014_000000010001.png"
    np.testing.assert_array_equal(np.asarray(Image.open(records[0].image_path)), noise(1_000, (8, 8)))


def test_a_tenth_of_the_official_training_images_is_for_tuning(built):
    root, _ = built
    images = {split: {r.image_id for r in VQA().records(root, split)} for split in ("train", "tune")}
    shapes = {split: {image for image in found if image <= 10_000} for split, found in images.items()}
    assert len(shapes["tune"]) == 1
    assert shapes["train"] | shapes["tune"] == set(range(1, 11))
    assert not shapes["train"] & shapes["tune"]


def test_no_picture_and_no_variant_is_in_two_splits(built, packages):
    root, _ = built
    groups = {picture.image_id: picture.group for picture in read_photographs(packages(STAMPS))}
    identifiers, found = [], {}
    for split in ("train", "val", "tune"):
        records = VQA().records(root, split)
        identifiers += [record.question_id for record in records]
        found[split] = {record.image_path.read_bytes() for record in records}
        found[split] |= {groups[record.image_id] for record in records if record.image_id in groups}
    assert len(set(identifiers)) == len(identifiers) == 3 + 11 + 16
    for one, other in (("train", "val"), ("train", "tune"), ("val", "tune")):
        assert not found[one] & found[other]


def test_the_check_finds_no_issue_and_the_build_repeats_itself(built, packages, tmp_path):
    root, summary = built
    for split in ("train", "val", "tune"):
        reports = list(check_root(root, splits=[split]))
        assert [(report.name, report.defects) for report in reports if report.entries] == [("vqa", ())]
    assert build_vqa(tmp_path, packages) == summary
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for path in files:
        assert (root / path).read_bytes() == (tmp_path / path).read_bytes()


def test_the_summary_counts_and_scores_majority_answers(built):
    root, summary = built
    assert summary == json.loads((root / "vqa/summary.json").read_text())
    for split, counts in summary["splits"].items():
        records = VQA().records(root, split)
        assert counts["questions"] == len(records) == sum(counts["by_type"].values())
        assert counts["images"] == len({record.image_id for record in records})
    # In train "no" is most frequent, and no question for a shape is there.
    for baseline in summary["baselines"].values():
        assert baseline["yes/no"] == 0.5
        assert baseline["shape"] == 0.0


def test_transparent_pixels_are_white_and_large_images_become_smaller(tmp_path):
    pixels = np.zeros((100, 448, 4), np.uint8)
    pixels[:, :224] = (255, 0, 0, 255)  # red, and then transparent black
    write_image(tmp_path / "half.png", pixels)
    image = read_on_white(tmp_path / "half.png")
    assert (image.mode, image.size) == ("RGB", (224, 50))
    assert image.getpixel((50, 25)) == (255, 0, 0)
    assert image.getpixel((200, 25)) == (255, 255, 255)


def test_another_layout_is_refused(packages, tmp_path):
    with pytest.raises(InputError, match=r"questions\.json: expected a file of easy-vqa"):
        build_vqa(tmp_path, lambda name: tmp_path / name)
    with pytest.raises(InputError, match="stamps: expected a folder of tuxpaint-stamps-default"):
        build_vqa(tmp_path, lambda name: packages(name) if name == EASY_VQA else tmp_path / name)
    assert not (tmp_path / "vqa").exists()
