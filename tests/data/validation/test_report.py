"""What the check counted, and how it is told."""

import json
from pathlib import Path

from safe_train.data.datasets.issues import Issue, IssueKind, ListedRecord
from safe_train.data.validation.report import Tally, reports_json

ROOT = Path("/data")


def test_counts_lengths_and_answers():
    tally = Tally(ROOT)
    for answers in (("Yes", "yes", "no"), ("red",)):
        tally.add_record(ListedRecord("What?", answers))
    tally.add_record(ListedRecord(None, ("A text.",), is_document=True))
    for seconds in (1.0, 4.0, 2.5, None):
        tally.add_clip(seconds)
    tally.add_image(readable=True)
    tally.add_image(readable=False)
    report = tally.report("vqa", "val")
    assert (report.entries, report.questions, report.documents, report.clips, report.images) == (3, 2, 1, 3, 1)
    assert (report.durations.shortest, report.durations.median, report.durations.longest) == (1.0, 2.5, 4.0)
    assert report.durations.total == 7.5
    assert (report.answers.fewest, report.answers.mean, report.answers.most) == (1, 2.0, 3)
    assert (report.answers.distinct, report.answers.common) == (3, {"yes": 2, "no": 1, "red": 1})
    assert str(report).splitlines() == [
        "vqa val: 2 questions, 1 document, 3 audio files, 1 image",
        "  length: 1.00 s to 4.00 s, median 2.50 s, 0.00 h in all",
        "  answers a question: 1 to 3, mean 2.0; 3 different, most often 'yes' 2, 'no' 1, 'red' 1",
        "  no defects",
    ]


def test_an_issue_counts_once_a_name_and_the_first_five_are_named():
    tally = Tally(ROOT)
    for name in (*"abcdefg", "a"):
        tally.add_issue(Issue(IssueKind.MISSING_AUDIO, f"/data/{name}.wav", "no such file"))
    tally.add_issue(None)
    (issue,) = tally.report("audiocaps", "train").defects
    assert (issue.kind, issue.count) == ("missing-audio", 7)
    assert list(issue.first) == ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav"]
    assert str(tally.report("audiocaps", "train")).endswith("e.wav (no such file) and 2 more")


def test_a_file_is_new_once():
    tally = Tally(ROOT)
    assert [tally.is_new(ROOT / name) for name in ("a", "b", "a")] == [True, True, False]


def test_the_json_has_the_total_and_every_set():
    tally = Tally(ROOT)
    tally.add_issue(Issue(IssueKind.LIST, "/data/vqa", "no list"))
    found = json.loads(reports_json(ROOT, [tally.report("vqa", "val"), Tally(ROOT).report("pack", "")]))
    assert (found["root"], found["defects"], [part["name"] for part in found["sets"]]) == ("/data", 1, ["vqa", "pack"])
    assert found["sets"][0]["defects"][0]["first"] == {"vqa": "no list"}
