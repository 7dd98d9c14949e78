"""A reader's error is an issue of the kind that it tells, or else of the kind that was looked for."""

import pytest

from safe_train.data.datasets.issues import Issue, IssueKind
from safe_train.data.datasets.manifest import Record
from safe_train.errors import InputError


def error_of(read):
    with pytest.raises(InputError) as caught:
        read()
    return caught.value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("cut \ud83d", IssueKind.SURROGATE),
        ("<image>", IssueKind.TOKEN),
        ("  ", IssueKind.ANSWERS),
    ],
)
def test_the_error_tells_the_kind(text, kind):
    error = error_of(lambda: Record("list.json: entry 3", {"answers": text}).references("answers"))
    issue = Issue.of(IssueKind.ANSWERS, error)
    assert (issue.kind, issue.name) == (kind, "list.json: entry 3")
    assert issue.detail == f"expected {error.expected}, got {error.got}"
