"""What every reader inherits: finding lists, and the check of a manifest entry by entry."""

import json

import pytest

from safe_train.data.datasets.entry_scan import EntryFields
from safe_train.data.datasets.issues import Issue, IssueKind, ListedRecord
from safe_train.data.datasets.manifest import read_records
from safe_train.data.datasets.reader import VLReader
from safe_train.data.datasets.records import VQARecord
from safe_train.errors import InputError


class Questions(VLReader):
    """A manifest alone, read whole or refused."""

    name = "questions"
    fields = EntryFields(audio=(), required=("image",))

    def records(self, root, split):
        entries = read_records(self.require_manifest(root, split, f"official_{split}.txt"))
        return [
            VQARecord(
                entry.identifier("id"),
                0,
                self.question(entry, has_image=True) or "",
                entry.references("answers"),
                root / entry.text("image"),
                "",
                "",
            )
            for entry in entries
        ]


ENTRY = {"id": 1, "question": "Red?", "answers": ["yes"], "image": "a.png"}


def write(root, entries, name="questions/train.jsonl"):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def found(root, split="train"):
    listed = list(Questions().check_entries(root, split))
    issues = [(entry.kind, entry.name.rpartition("/")[2]) for entry in listed if isinstance(entry, Issue)]
    return issues, [entry for entry in listed if isinstance(entry, ListedRecord)]


def test_a_set_is_its_folder_and_a_split_its_list(tmp_path):
    reader = Questions()
    assert not reader.is_present(tmp_path)
    write(tmp_path, [ENTRY])
    assert reader.is_present(tmp_path)
    assert (reader.has_split(tmp_path, "train"), reader.has_split(tmp_path, "val")) == (True, False)


@pytest.mark.parametrize("name", ["questions_train.jsonl", "questions_train.json", "train.jsonl", "train.json"])
def test_the_names_of_a_manifest(tmp_path, name):
    write(tmp_path, [ENTRY], f"questions/{name}")
    assert Questions().require_manifest(tmp_path, "train").name == name


def test_a_list_that_is_not_there_is_told_with_every_name_that_would_do(tmp_path):
    (tmp_path / "questions").mkdir()
    with pytest.raises(InputError) as caught:
        Questions().records(tmp_path, "dev")
    assert caught.value.expected == (
        "official_dev.txt or questions_dev.jsonl or questions_dev.json or dev.jsonl or dev.json"
    )


def test_what_a_sound_list_names(tmp_path):
    write(tmp_path, [ENTRY])
    assert found(tmp_path) == ([], [ListedRecord("Red?", ("yes",), None, tmp_path / "a.png")])


def test_every_field_that_is_wrong_is_an_issue_and_the_others_are_read(tmp_path):
    entries = [
        ENTRY | {"answers": []},
        ENTRY | {"id": 2, "image": "../a.png", "question": "<image> and <image>"},
        ENTRY | {"id": 2},
        {"id": 4, "question": "Blue?", "answers": ["no"]},
    ]
    write(tmp_path, entries)
    issues, listed = found(tmp_path)
    assert issues == [
        (IssueKind.ANSWERS, "train.jsonl:1"),
        (IssueKind.OUTSIDE, "train.jsonl:2"),
        (IssueKind.TOKEN, "train.jsonl:2"),
        (IssueKind.DUPLICATE, "2"),
        (IssueKind.ENTRY, "train.jsonl:4"),
    ]
    assert [entry.answers for entry in listed] == [(), ("yes",), ("yes",), ("no",)]


def test_what_is_in_no_single_entry_is_an_issue_of_the_list(tmp_path):
    write(tmp_path, [])
    assert found(tmp_path) == ([(IssueKind.LIST, "train.jsonl")], [])
    assert found(tmp_path, "val")[0] == [(IssueKind.LIST, "questions")]


def test_an_official_list_that_is_refused_is_not_gone_through(tmp_path):
    class Official(Questions):
        def official_lists(self, root, split):
            return [root / "official.txt"]

    write(tmp_path, [ENTRY | {"answers": []}])
    (issue,) = Official().check_entries(tmp_path, "train")
    assert isinstance(issue, Issue)
    assert issue.kind == IssueKind.LIST
