"""Fields of an entry, taken one by one."""

from safe_train.data.datasets.entry_scan import EntryScan
from safe_train.data.datasets.issues import IssueKind
from safe_train.data.datasets.manifest import Record


def scan(**fields):
    return EntryScan(Record("list.json: entry 0", fields), 1)


def test_what_is_right_is_taken_and_what_is_wrong_is_an_issue():
    entry = scan(question="Red?", answers=7)
    assert entry.take(IssueKind.ENTRY, lambda: entry.record.text("question")) == "Red?"
    assert entry.issues == []
    assert entry.take(IssueKind.ANSWERS, lambda: entry.record.texts("answers")) is None
    (issue,) = entry.issues
    assert (issue.kind, issue.name) == (IssueKind.ANSWERS, "list.json: entry 0")
    assert "expected the field answers to be text or a list of texts, got" in issue.detail


def test_paths_are_those_of_the_root_or_of_the_folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.wav").touch()
    entry = scan(audio_path="a.wav")
    assert entry.take_path(tmp_path, folder, ("audio", "audio_path"), is_required=True) == folder / "a.wav"
    assert entry.issues == []


def test_a_path_that_is_missing_counts_only_where_it_is_required(tmp_path):
    entry = scan()
    assert entry.take_path(tmp_path, tmp_path, ("audio",), is_required=False) is None
    assert entry.issues == []
    assert entry.take_path(tmp_path, tmp_path, ("audio",), is_required=True) is None
    assert [issue.kind for issue in entry.issues] == [IssueKind.ENTRY]


def test_a_path_that_leaves_the_root(tmp_path):
    entry = scan(audio="../a.wav")
    assert entry.take_path(tmp_path, tmp_path, ("audio",), is_required=True) is None
    assert [issue.kind for issue in entry.issues] == [IssueKind.OUTSIDE]
