"""The report of a data set's check."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from safe_train.data.datasets.issues import Issue, IssueKind, ListedRecord
from safe_train.io.files import json_text
from safe_train.io.messages import one_line, shortened

_NAMES_SHOWN = 5
_COMMON_SHOWN = 5


@dataclass(frozen=True)
class Durations:
    """Lengths of the clips that could be decoded, in seconds."""

    shortest: float
    median: float
    longest: float
    total: float


@dataclass(frozen=True)
class AnswerStatistics:
    """The reference answers of questions, or the captions of clips.

    Attributes:
        fewest: answers of the entry that has the fewest.
        mean: answers per entry.
        most: answers of the entry that has the most.
        distinct: different answers to questions, ignoring case; captions are not compared.
        common: the most frequent answers to questions, and the count of each.
    """

    fewest: int
    mean: float
    most: int
    distinct: int
    common: dict[str, int]


@dataclass(frozen=True)
class IssueCount:
    """The issues of one kind.

    Attributes:
        kind: a short name, such as ``truncated-audio``.
        words: the kind in words.
        count: how many files, entries or ids have it.
        first: details of the first ones, by name.
    """

    kind: str
    words: str
    count: int
    first: dict[str, str]


@dataclass(frozen=True)
class SetReport:
    """One split of one data set.

    Attributes:
        name: name in the registry of data sets.
        split: empty for a pack.
        entries: questions, clips with captions, and documents, that could be read.
        questions: entries with a question.
        clips: different audio files that are listed and exist.
        images: different image files that are listed and could be read.
        durations: None where no clip could be decoded.
        answers: None where nothing has an answer.
        defects: the issues, by kind.
        documents: entries that are texts without a question.
    """

    name: str
    split: str
    entries: int
    questions: int
    clips: int
    images: int
    durations: Durations | None
    answers: AnswerStatistics | None
    defects: tuple[IssueCount, ...]
    documents: int = 0

    def __str__(self) -> str:
        """A line of counts, and one each for lengths, answers and every kind of issue."""
        where = f"{self.name} {self.split}".strip()
        counts = (
            _count_words(self.questions, "question"),
            _count_words(self.documents, "document"),
            _count_words(self.entries - self.questions - self.documents, "captioned clip"),
            _count_words(self.clips, "audio file"),
            _count_words(self.images, "image"),
        )
        lines = [f"{where}: {', '.join(text for text in counts if text) or 'nothing that could be read'}"]
        if self.durations is not None:
            lines.append(f"  length: {_describe_durations(self.durations)}")
        if self.answers is not None:
            lines.append(f"  {_describe_answers(self.answers)}")
        lines += [f"  {issue.count} x {issue.words}: {_name_first(issue)}" for issue in self.defects]
        return "\n".join(lines if self.defects else [*lines, "  no defects"])


def reports_json(root: Path, reports: Sequence[SetReport]) -> str:
    """``{"root", "defects": how many, "sets": [the fields of each report]}`` as JSON text."""
    total = sum(issue.count for report in reports for issue in report.defects)
    return json_text({"root": str(root), "defects": total, "sets": [asdict(report) for report in reports]})


class Tally:
    """Running counts of a data set's check; ``root`` is omitted from the names of files below it."""

    def __init__(self, root: Path) -> None:
        self._prefixes = (f"{root}/", f"{root.absolute()}/")
        self._seen: set[Path] = set()
        self._entries = self._questions = self._documents = self._clips = self._images = 0
        self._seconds = array("d")
        self._numbers_of_answers: Counter[int] = Counter()
        self._answers: Counter[str] = Counter()
        self._issues: dict[IssueKind, dict[str, str]] = defaultdict(dict)

    def is_new(self, path: Path) -> bool:
        """Whether the file is met for the first time."""
        known = path in self._seen
        self._seen.add(path)
        return not known

    def add_record(self, record: ListedRecord) -> None:
        """Counts an entry and its answers."""
        self._entries += 1
        self._questions += record.question is not None
        self._documents += record.is_document
        if record.is_document:
            return
        self._numbers_of_answers[len(record.answers)] += 1
        if record.question is not None:
            self._answers.update(answer.strip().lower() for answer in record.answers)

    def add_clip(self, seconds: float | None) -> None:
        """Counts an audio file that could be decoded; None does not count."""
        if seconds is not None:
            self._clips += 1
            self._seconds.append(seconds)

    def add_image(self, *, readable: bool) -> None:
        """Counts an image that could be read."""
        self._images += readable

    def add_issue(self, issue: Issue | None) -> None:
        """Counts an issue, once for each kind and name."""
        if issue is not None:
            name, detail = (one_line(self._strip_root(text)) for text in (issue.name, issue.detail))
            self._issues[issue.kind].setdefault(name, detail)

    def report(self, name: str, split: str) -> SetReport:
        """What was counted."""
        return SetReport(
            name=name,
            split=split,
            entries=self._entries,
            questions=self._questions,
            clips=self._clips,
            images=self._images,
            durations=self._summarize_durations(),
            answers=self._summarize_answers(),
            defects=tuple(_count_issues(kind, self._issues[kind]) for kind in IssueKind if self._issues[kind]),
            documents=self._documents,
        )

    def _summarize_durations(self) -> Durations | None:
        seconds = self._seconds
        return Durations(min(seconds), median(seconds), max(seconds), sum(seconds)) if seconds else None

    def _summarize_answers(self) -> AnswerStatistics | None:
        numbers = self._numbers_of_answers
        total = sum(number * entries for number, entries in numbers.items())
        if not total:
            return None
        common = dict(self._answers.most_common(_COMMON_SHOWN))
        return AnswerStatistics(min(numbers), total / numbers.total(), max(numbers), len(self._answers), common)

    def _strip_root(self, name: str) -> str:
        for prefix in self._prefixes:
            name = name.removeprefix(prefix)
        return name


def _count_issues(kind: IssueKind, found: dict[str, str]) -> IssueCount:
    first = {name: found[name] for name in list(found)[:_NAMES_SHOWN]}
    return IssueCount(kind.name.lower().replace("_", "-"), kind.value, len(found), first)


def _count_words(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}" if number else ""


def _describe_durations(lengths: Durations) -> str:
    span = f"{lengths.shortest:.2f} s to {lengths.longest:.2f} s, median {lengths.median:.2f} s"
    return f"{span}, {lengths.total / 3600:.2f} h in all"


def _describe_answers(answers: AnswerStatistics) -> str:
    noun = "answers a question" if answers.distinct else "captions a clip"
    text = f"{noun}: {answers.fewest} to {answers.most}, mean {answers.mean:.1f}"
    if not answers.distinct:
        return text
    common = ", ".join(f"{shortened(answer)!r} {count}" for answer, count in answers.common.items())
    return f"{text}; {answers.distinct} different, most often {common}"


def _name_first(issue: IssueCount) -> str:
    shown = "; ".join(f"{name} ({detail})" for name, detail in issue.first.items())
    more = issue.count - len(issue.first)
    return " ".join((f"{shown} and {more} more" if more else shown).split())
