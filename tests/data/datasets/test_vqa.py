"""The VQA reader on small files in the official format and in the manifests' formats."""

import copy
import json
from pathlib import Path

import pytest
from PIL import Image

from safe_train.data.datasets.conversion import convert_vqa
from safe_train.data.datasets.records import VQARecord
from safe_train.data.datasets.vqa import VQA
from safe_train.errors import InputError

TEN = ["3", "4", "3", "3", "three", "3", "2", "3", "3", "3"]
QUESTIONS = {
    "info": {"description": "VQA v2.0"},
    "task_type": "Open-Ended",
    "data_type": "mscoco",
    "license": {"name": "CC BY 4.0"},
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 387, "question": "How many birds?", "question_id": 387003},
        {"image_id": 42, "question": "Is it red?", "question_id": 42000},
        {"image_id": 387, "question": "What color is it?", "question_id": 387001},
    ],
}
KINDS = {387003: ("how many", "number"), 42000: ("is it", "yes/no"), 387001: ("what color is it", "other")}


def annotation(question_id, image_id, answers):
    return {
        "question_type": KINDS[question_id][0],
        "multiple_choice_answer": answers[0],
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": index}
            for index, answer in enumerate(answers, start=1)
        ],
        "image_id": image_id,
        "answer_type": KINDS[question_id][1],
        "question_id": question_id,
    }


ANNOTATIONS = {
    "data_subtype": "val2014",
    # In another order than the questions: the two files are joined by question id.
    "annotations": [
        annotation(387001, 387, ["blue"] * 10),
        annotation(387003, 387, TEN),
        annotation(42000, 42, ["yes"] * 6 + ["no"] * 4),
    ],
}


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


class OfficialData:
    """A data root with the official pair, whose parts a test may damage before it is written."""

    def __init__(self, root):
        self.root = root
        self.folder = root / "vqa"
        self.questions = copy.deepcopy(QUESTIONS)
        self.annotations = copy.deepcopy(ANNOTATIONS)
        write_image(self.folder / "val2014/COCO_val2014_000000000387.jpg")
        write_image(self.folder / "val2014/COCO_val2014_000000000042.png")

    def load(self):
        write_json(self.folder / "v2_OpenEnded_mscoco_val2014_questions.json", self.questions)
        if self.annotations is not None:
            write_json(self.folder / "v2_mscoco_val2014_annotations.json", self.annotations)
        return VQA().records(self.root, "val")

    def error(self):
        with pytest.raises(InputError) as caught:
            self.load()
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def official(tmp_path):
    return OfficialData(tmp_path)


def manifest_error(root, split="val"):
    with pytest.raises(InputError) as caught:
        VQA().records(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ids_that_are_names_and_placeholders_of_the_image(tmp_path):
    """As in lists of GQA and LLaVA."""
    entries = [
        {"id": name, "question": f"<image>\n{name}?", "answer": "a", "image": "a.png", "image_id": image}
        for name, image in (("05515938", "n161313"), ("5515938", "2370799"), (7, 7))
    ]
    write_image(tmp_path / "a.png")
    write_json(tmp_path / "vqa/val.json", entries)
    examples = VQA().records(tmp_path, "val")
    assert [example.question_id for example in examples] == ["05515938", 5515938, 7]
    assert [example.image_id for example in examples] == ["n161313", 2370799, 7]
    rows = convert_vqa(examples)
    assert [(row.row_id, row.question, row.cluster) for row in rows] == [
        ("05515938", "05515938?", "n161313"), ("5515938", "5515938?", "2370799"), ("7", "7?", "7"),
    ]  # fmt: skip
    write_json(tmp_path / "vqa/val.json", [*entries, entries[2] | {"id": "7"}])
    assert "expected a question id of its own, got 7 again, first at" in manifest_error(tmp_path)


def test_the_official_pair_is_joined_by_question_id(official):
    images = official.folder / "val2014"
    assert official.load() == [
        VQARecord(
            question_id=387003,
            image_id=387,
            question="How many birds?",
            answers=tuple(TEN),
            image_path=images / "COCO_val2014_000000000387.jpg",
            question_type="how many",
            answer_type="number",
        ),
        VQARecord(
            question_id=42000,
            image_id=42,
            question="Is it red?",
            answers=("yes",) * 6 + ("no",) * 4,
            image_path=images / "COCO_val2014_000000000042.png",
            question_type="is it",
            answer_type="yes/no",
        ),
        VQARecord(
            question_id=387001,
            image_id=387,
            question="What color is it?",
            answers=("blue",) * 10,
            image_path=images / "COCO_val2014_000000000387.jpg",
            question_type="what color is it",
            answer_type="other",
        ),
    ]


def test_the_official_pair_comes_before_a_manifest(official):
    write_json(official.folder / "vqa_val.json", [{"id": 1, "question": "?", "answer": "a", "image": "none.jpg"}])
    assert len(official.load()) == 3


def test_the_test_split_of_2015_has_no_answers(tmp_path):
    folder = tmp_path / "vqa"
    write_json(
        folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json",
        {"data_subtype": "test2015", "questions": [{"image_id": 1, "question": "Why?", "question_id": 10}]},
    )
    write_image(folder / "test2015/COCO_test2015_000000000001.jpg")
    (example,) = VQA().records(tmp_path, "test-dev")
    assert (example.answers, example.question_type, example.answer_type) == ((), "", "")
    assert example.image_path.name == "COCO_test2015_000000000001.jpg"


def test_any_other_split_must_have_annotations(official):
    official.annotations = None
    assert "v2_mscoco_val2014_annotations.json: expected the annotations" in official.error()


def test_a_question_without_annotation(official):
    del official.annotations["annotations"][1]
    assert "questions[0]: expected an annotation of question 387003, got none" in official.error()


def test_annotations_of_questions_that_are_not_asked_do_no_harm(official):
    del official.questions["questions"][1]
    assert [example.question_id for example in official.load()] == [387003, 387001]


def test_questions_and_annotations_of_different_releases(official):
    official.annotations["annotations"][0]["image_id"] = 388
    assert "annotations[0]: expected image_id 387, as in the question, got 388" in official.error()


@pytest.mark.parametrize("part", ["questions", "annotations"])
def test_duplicate_question_ids(official, part):
    entries = getattr(official, part)[part]
    entries.append(dict(entries[0]))
    message = official.error()
    assert f"{part}[3]: expected a question id of its own, got {entries[0]['question_id']} again" in message
    assert f"{part}[0]" in message


@pytest.mark.parametrize("field", ["image_id", "question", "question_id"])
def test_a_question_lacks_a_field(official, field):
    del official.questions["questions"][1][field]
    assert f"questions[1]: expected the field {field}, got the fields" in official.error()


@pytest.mark.parametrize("field", ["answers", "question_type", "answer_type", "question_id", "image_id"])
def test_an_annotation_lacks_a_field(official, field):
    del official.annotations["annotations"][2][field]
    assert f"annotations[2]: expected the field {field}, got the fields" in official.error()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "answers to be a non-empty list, got []"),
        ("yes", "answers to be a non-empty list, got 'yes'"),
        (["yes"], "answers[0]: expected a JSON object"),
        ([{"answer": ""}], "answers[0]: expected the field answer to be text"),
        ([{"answer_id": 1}], "answers[0]: expected the field answer, got the fields answer_id"),
    ],
)
def test_malformed_answers(official, answers, message):
    official.annotations["annotations"][0]["answers"] = answers
    assert message in official.error()


@pytest.mark.parametrize("questions", [[], {}, 3])
def test_questions_must_be_a_list_with_entries(official, questions):
    official.questions["questions"] = questions
    assert "expected questions to be a non-empty list" in official.error()


def test_a_data_subtype_cannot_lead_out_of_the_folder(official):
    official.questions["data_subtype"] = "../../val2014"
    assert "expected data_subtype to be a folder's name, got '../../val2014'" in official.error()


def test_a_missing_image_is_told_with_the_count(official):
    (official.folder / "val2014/COCO_val2014_000000000387.jpg").unlink()
    message = official.error()
    assert "COCO_val2014_000000000387.jpg: expected an image, got no such file, and so for 1 of 2 images" in message


def test_a_truncated_file_is_told_with_its_position(official):
    official.load()
    path = official.folder / "v2_mscoco_val2014_annotations.json"
    path.write_text(path.read_text()[:100])
    message = manifest_error(official.root)
    assert message.startswith(f"{path}:1:")
    assert "expected JSON" in message


@pytest.mark.parametrize("name", ["vqa_val.jsonl", "vqa_val.json", "val.jsonl", "val.json"])
def test_manifests(tmp_path, name):
    write_image(tmp_path / "images/a.png")
    write_image(tmp_path / "vqa/images/b.png")
    entries = [
        {"question_id": 5, "question": "What?", "answers": TEN, "image": "images/a.png"},
        {"id": "6", "question_text": "Où?", "answer": "ici", "image_path": "images/b.png", "answer_type": "other"},
        {"id": 7, "question": "Who?", "answers": ["x"], "image": "images/a.png", "question_type": "who"},
    ]
    if name.endswith("l"):
        text = "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    else:
        text = json.dumps(entries)
    (tmp_path / "vqa" / name).write_text(text, encoding="utf-8")
    first, second, third = VQA().records(tmp_path, "val")
    assert first == VQARecord(5, 0, "What?", tuple(TEN), tmp_path / "images/a.png", "", "")
    assert second == VQARecord(6, 1, "Où?", ("ici",), tmp_path / "vqa/images/b.png", "", "other")
    assert third == VQARecord(7, 0, "Who?", ("x",), tmp_path / "images/a.png", "who", "")


def test_a_manifest_may_name_its_images(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png")
    entry = {"question": "?", "answer": "a"}
    entries = [{"id": 1, "image": "a.png", "image_id": 9, **entry}, {"id": 2, "image": "b.png", "image_id": 8, **entry}]
    write_json(tmp_path / "vqa/val.json", entries)
    assert [example.image_id for example in VQA().records(tmp_path, "val")] == [9, 8]


def test_images_are_named_by_all_entries_or_none(tmp_path):
    write_image(tmp_path / "a.png")
    entry = {"question": "?", "answer": "a", "image": "a.png"}
    write_json(tmp_path / "vqa/val.json", [{"id": 1, "image_id": 9, **entry}, {"id": 2, **entry}])
    assert "entry 1: expected the field image_id" in manifest_error(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "expected the field question_id or id"),
        ({"id": 1.5}, "expected the field question_id or id to be text or a whole number, got float 1.5"),
        ({"question": ""}, "expected the field question or question_text to be text"),
        ({"answers": []}, "expected the field answers or answer to be text or a list of texts"),
        ({"answers": None}, "expected the field answers or answer, got the fields"),
        ({"image": None}, "expected the field image or image_path"),
        ({"image": "../a.png"}, "'../a.png', which leaves it"),
        ({"image": "b.png"}, "b.png: expected an image, got no such file"),
    ],
)
def test_bad_manifest_entries(tmp_path, change, message):
    root = tmp_path / "root"
    write_image(root / "a.png")
    write_image(tmp_path / "a.png")
    entry = {"id": 1, "question": "?", "answers": ["a"], "image": "a.png"}
    write_json(root / "vqa/val.json", [entry])
    assert len(VQA().records(root, "val")) == 1
    write_json(root / "vqa/val.json", [{**entry, **change}])
    assert message in manifest_error(root)


def test_duplicate_ids_in_a_manifest(tmp_path):
    write_image(tmp_path / "a.png")
    entry = {"id": 1, "question": "?", "answers": ["a"], "image": "a.png"}
    write_json(tmp_path / "vqa/val.json", [entry, entry])
    assert "entry 1: expected a question id of its own, got 1 again, first at" in manifest_error(tmp_path)


def test_a_missing_split_is_told_with_the_names_that_were_tried(official):
    official.load()
    message = manifest_error(official.root, "train")
    for name in ("v2_OpenEnded_mscoco_train2014_questions.json", "vqa_train.jsonl", "train.json"):
        assert name in message


def test_a_missing_root():
    assert "nowhere: expected a data root, got no such folder" in manifest_error(Path("nowhere"))
