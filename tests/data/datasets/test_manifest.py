"""What the readers share: records, JSON and JSONL with positions, and paths that stay in the root."""

import json

import pytest

from safe_train.data.datasets.manifest import (
    Record,
    find_manifest,
    read_json,
    read_records,
    read_text,
    require_set_folder,
    resolve,
    strip_placeholder,
)
from safe_train.errors import InputError


def record(**fields):
    return Record("file.jsonl:3", fields)


def test_the_first_name_present_wins_and_null_counts_as_absent():
    assert record(question_text="b", question="a").text("question", "question_text") == "a"
    assert record(question_text="b", question=None).text("question", "question_text") == "b"


def test_a_missing_field_is_told_with_its_names_and_the_fields_there():
    with pytest.raises(InputError) as caught:
        record(a=1, b=2).text("question", "question_text")
    assert str(caught.value) == (
        "file.jsonl:3: expected the field question or question_text, got the fields a, b; add the field"
    )


@pytest.mark.parametrize("value", [3, ["a"], "", " \t", {"a": 1}, False])
def test_text_must_be_text_that_is_not_blank(value):
    with pytest.raises(InputError, match="to be text"):
        record(question=value).text("question")


@pytest.mark.parametrize(("value", "expected"), [("a", ("a",)), (["a", "a", "b"], ("a", "a", "b"))])
def test_texts_take_one_or_several_and_keep_repetitions(value, expected):
    assert record(answers=value).texts("answers") == expected


@pytest.mark.parametrize("value", [[], ["a", ""], ["a", 3], 3, {}])
def test_texts_must_all_be_texts(value):
    with pytest.raises(InputError, match="text or a list of texts"):
        record(answers=value).texts("answers")


@pytest.mark.parametrize(("value", "expected"), [(7, 7), ("007", 7), (0, 0), (-3, -3)])
def test_integer(value, expected):
    assert record(id=value).integer("id") == expected


@pytest.mark.parametrize("value", [True, 1.5, "1.5", "", "x1", "\u0663", []])
def test_integer_refuses_anything_else(value):
    with pytest.raises(InputError, match="a whole number"):
        record(id=value).integer("id")


@pytest.mark.parametrize(
    ("value", "expected"), [(276, "276"), ("clip-1", "clip-1"), ("007", "007"), ("7", "7"), (-3, "-3"), ("-3", "-3")]
)
def test_identifier(value, expected):
    assert record(id=value).identifier("id") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, 7), ("7", 7), ("0", 0), ("05515938", "05515938"), ("n161313", "n161313"), ("9" * 5_000, "9" * 5_000)],
)
def test_a_number_or_a_name(value, expected):
    """Ids of VQA v2 and of GQA, whose question ids begin with zeros and whose image ids may with a letter."""
    found = record(id=value).number_or_name("id")
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("value", [True, 1.5, "", " ", [], {}, "\ud83d"])
def test_what_is_neither_number_nor_name(value):
    with pytest.raises(InputError):
        record(id=value).number_or_name("id")


# LLaVA's lists write the token before the question, or behind it; the first is from its instruction data.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>\nWhat are the colors of the bus?", "What are the colors of the bus?"),
        ("What are the colors of the bus?\n<image>", "What are the colors of the bus?"),
        ("<image>What?", "What?"),
        (" <image> \n What? ", "What?"),
        (" What? ", " What? "),
    ],
)
def test_the_placeholder_of_the_image_is_no_part_of_its_question(text, expected):
    assert strip_placeholder(text, "x", has_image=True) == expected


@pytest.mark.parametrize(
    ("text", "has_image"),
    [
        ("Is <image> red?", True),
        ("<image>", True),
        ("<image>\n<image>\nWhat differs?", True),
        ("<image>\nWhat?\n<image>", True),
        ("<image>\nWhat?", False),
        ("a picture of <image>", False),
    ],
)
def test_a_placeholder_elsewhere_is_refused(text, has_image):
    with pytest.raises(InputError, match="x: expected text without the literal <image>"):
        strip_placeholder(text, "x", has_image=has_image)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("data:image/png;base64,iVBORw0KGgo" + "A" * 9_000, "got a data: URI; put the file below"),
        ("https://example.org/a.png", "got the address 'https://example.org/a.png'"),
        ("images/" + "a" * 256 + ".png", "got a name of 260 bytes, which begins with 'images/aaaaaaaaaaaaa'"),
        ("犬" * 86, "got a name of 258 bytes"),
        ("/".join(["abc"] * 2_000), "got one of 7,999 bytes"),
        ("a\0b", "with a zero byte"),
    ],
)
def test_what_can_be_no_path_is_told_shortly_and_not_looked_for(tmp_path, written, message):
    with pytest.raises(InputError) as caught:
        resolve(tmp_path, tmp_path / "vqa", written, "val.json: entry 0")
    assert str(caught.value).startswith("val.json: entry 0: expected the path of a file, ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_name_as_long_as_file_systems_take(tmp_path):
    name = "a" * 255
    (tmp_path / name).touch()
    assert resolve(tmp_path, tmp_path / "vqa", name, "x") == tmp_path / name


def test_jsonl_is_read_line_by_line_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y"}\r\n\r\n{"a": 2}\n'.encode())
    assert [(entry.where, entry.fields) for entry in read_records(path)] == [
        (f"{path}:1", {"a": "x\u2028y"}),
        (f"{path}:3", {"a": 2}),
    ]


def test_json_is_a_list_of_entries(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"a": 1}, {"a": 2}]))
    assert [entry.fields for entry in read_records(path)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": }\n', ":2:7: expected JSON, got expecting value"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', ":2:7: expected JSON, got expecting ':' delimiter"),
        ("a.json", '{"a": 1}', "a.json: expected a JSON list of entries, got dict"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "a.jsonl:2: expected a JSON object, got list [1]"),
        ("a.json", "[]", "a.json: expected at least one entry, got none"),
        ("a.jsonl", "\n\n", "a.jsonl: expected at least one entry, got none"),
        ("a.json", "", ":1:1: expected JSON"),
        ("a.json", "[" * 100_000, "a.json:1: expected JSON, got lists or objects that are nested too deep"),
        ("a.jsonl", '{"a": 1}\n{"a": ' + "9" * 5_000 + "}", "a.jsonl:2: expected JSON, got a number of thousands of"),
    ],
)
def test_malformed_manifests_are_told_with_their_position(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_records(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'["caf\xe9"]')
    with pytest.raises(InputError, match="expected UTF-8 text, got bytes that are not at 5"):
        read_json(path)


def test_a_folder_instead_of_a_file(tmp_path):
    with pytest.raises(InputError, match="a readable file, got a folder"):
        read_text(tmp_path)


def test_manifests_are_tried_in_the_documented_order(tmp_path):
    order = ["vqa_val.jsonl", "vqa_val.json", "val.jsonl", "val.json"]
    assert find_manifest(tmp_path, "vqa", "val") is None
    for name in reversed(order):
        (tmp_path / name).write_text("[]")
        assert find_manifest(tmp_path, "vqa", "val") == tmp_path / name


def test_set_folder_tells_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"expected a data root, got no such folder; give a data root .* vqa/"):
        require_set_folder(tmp_path / "nowhere", "vqa")
    with pytest.raises(InputError, match="the folder of the data set vqa, got no such folder"):
        require_set_folder(tmp_path, "vqa")
    (tmp_path / "vqa").write_text("")
    with pytest.raises(InputError, match="the folder of the data set vqa, got a file"):
        require_set_folder(tmp_path, "vqa")


def test_paths_are_relative_to_the_root_and_then_to_the_sets_folder(tmp_path):
    folder = tmp_path / "vqa"
    folder.mkdir()
    (folder / "a.png").touch()
    assert resolve(tmp_path, folder, "a.png", "x") == folder / "a.png"
    (tmp_path / "a.png").touch()
    assert resolve(tmp_path, folder, "a.png", "x") == tmp_path / "a.png"
    assert resolve(tmp_path, folder, "absent.png", "x") == tmp_path / "absent.png"
    assert resolve(tmp_path, folder, str(tmp_path / "a.png"), "x") == tmp_path / "a.png"


@pytest.mark.parametrize("written", ["../secret", "images/../../secret", "/etc/passwd", "../root2/a"])
def test_paths_that_leave_the_root_are_refused(tmp_path, written):
    root = tmp_path / "root"
    with pytest.raises(InputError, match="which leaves it; write paths relative to the data root") as caught:
        resolve(root, root / "vqa", written, "val.json: entry 0")
    assert str(caught.value).startswith("val.json: entry 0: expected a path in")


def test_a_detour_inside_the_root_is_no_way_out(tmp_path):
    assert resolve(tmp_path, tmp_path / "vqa", "images/../a.png", "x") == tmp_path / "a.png"


def test_a_root_given_relatively_confines_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path.relative_to(tmp_path) / "root"
    with pytest.raises(InputError, match="which leaves it"):
        resolve(root, root / "vqa", "../../a", "x")
