"""Text-only records: questions with answers, chats of one turn each, and documents."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from safe_train.data.datasets.entry_scan import EntryFields, EntryScan
from safe_train.data.datasets.issues import Issue, IssueKind, ListedRecord
from safe_train.data.datasets.manifest import Record, as_record, read_records, require_unique
from safe_train.data.datasets.reader import TextReader
from safe_train.data.datasets.records import TextRecord
from safe_train.data.example import DOCUMENT
from safe_train.errors import InputError
from safe_train.io.messages import shortened, value_shown

TEXT_SET = "text"
PIECE_CHARACTERS = 2_000
"""Longest piece of a document, in characters."""

_IDS = ("id", "question_id")
_QUESTIONS = ("prompt", "question", "question_text", "instruction")
_ANSWERS = ("answers", "answer", "output", "completion")
_TYPES = ("type", "question_type")
FIELDS = (*_IDS, *_QUESTIONS, "input", *_ANSWERS, *_TYPES, "cluster", "messages", "text")
"""Every field of an entry that is read."""

_FORMS = "a question with its answer, messages, or a text"


class TextListReader(TextReader):
    """Reads a list of text-only records; for the forms of its entries see :func:`read_text_list`."""

    fields = EntryFields(identifier=_IDS, question=_QUESTIONS, answers=_ANSWERS, audio=(), image=())

    def list_entries(self, root: Path, split: str) -> list[ListedRecord | Issue]:
        """Questions as they are, and documents whole, one an entry."""
        self.records(root, split)
        found = self.find_manifest(root, split)
        return [_list_entry(entry) for entry in read_records(found)] if found else []

    def entry_id(self, record: Record, number: int) -> str | None:
        """The id of an entry, or else its number."""
        return _read_id(record, number)

    def scan_entry(self, root: Path, entry: EntryScan) -> ListedRecord:
        """What of an entry can be read: a question with its answers, or a document."""
        del root
        for read in (_read_kind, _read_cluster):
            entry.take(IssueKind.ENTRY, partial(read, entry.record))
        known = len(entry.issues)
        question = entry.take(IssueKind.ENTRY, partial(_read_question, entry.record))
        if len(entry.issues) > known:  # whether it is to have answers cannot be told
            return ListedRecord(question, ())
        is_document = question is None
        kind = IssueKind.ENTRY if is_document else IssueKind.ANSWERS
        answers = entry.take(kind, partial(_read_answers, entry.record))
        return ListedRecord(question, answers or (), is_document=is_document)


class Text(TextListReader):
    """Your own text-only records.

    Tried in turn in ``root/text/``: ``text_val.jsonl``, ``text_val.json``, ``val.jsonl``, ``val.json``.
    """

    name = TEXT_SET

    def records(self, root: Path, split: str) -> list[TextRecord]:
        """Reads the records of a split, in the order of the file.

        Raises:
            InputError: there is no such file, or as :func:`read_text_list`.
        """
        return read_text_list(self.require_manifest(root, split))


def read_text_list(path: Path) -> list[TextRecord]:
    """Reads a list of text-only records.

    An entry is one of

    - a question: ``prompt``, ``question``, ``question_text`` or ``instruction``, behind which ``input`` is put on lines
      of its own if there is one; ``answers``, ``answer``, ``output`` or ``completion``;
    - a chat: ``messages``, one of the user and then one of the assistant;
    - a document: ``text``. It is split at white space into pieces of at most ``PIECE_CHARACTERS`` characters, of which
      the second has the id ``<id>#2``.

    Each may have an ``id`` or ``question_id``, text or a whole number, or else is numbered from 1 as it stands in the
    file; ``type`` or ``question_type``, by default ``text``; and ``cluster``, by default the id.

    Raises:
        InputError: the file cannot be read, is malformed or empty, an entry has none of these forms, a text is blank or
            cannot be encoded, or an id appears twice.
    """
    entries = read_records(path)
    found = [_read_entry(entry, number) for number, entry in enumerate(entries, start=1)]
    require_unique(entries, [records[0].text_id for records in found])
    records = [record for of_entry in found for record in of_entry]
    seen: set[str] = set()
    for record in records:  # a document's second piece may have the name of another entry
        if record.text_id in seen:
            raise InputError(
                path, "an id of its own for each piece", f"{shortened(record.text_id)} twice", "rename one of them"
            )
        seen.add(record.text_id)
    return records


def _read_entry(entry: Record, number: int) -> list[TextRecord]:
    """The records of the ``number``-th entry of a list; several only for a long document."""
    identifier, kind = _read_id(entry, number), _read_kind(entry)
    cluster = _read_cluster(entry) or identifier
    question, answers = _read_question(entry), _read_answers(entry)
    if question is not None:
        return [TextRecord(identifier, question, answers, kind, cluster)]
    pieces = split_document(answers[0])
    ids = [identifier if place == 1 else f"{identifier}#{place}" for place in range(1, len(pieces) + 1)]
    return [TextRecord(name, "", (piece,), DOCUMENT, cluster) for name, piece in zip(ids, pieces, strict=True)]


def _list_entry(entry: Record) -> ListedRecord:
    """What an entry that is right names."""
    question = _read_question(entry)
    return ListedRecord(question, _read_answers(entry), is_document=question is None)


def _read_id(record: Record, number: int) -> str:
    """The entry's id, or else its number.

    Raises:
        InputError: it is neither text nor a whole number.
    """
    return record.identifier(*_IDS) if record.optional(*_IDS) is not None else str(number)


def _read_question(record: Record) -> str | None:
    """The question of an entry, or None for a document.

    Raises:
        InputError: the entry has none of the forms, or its question is blank or cannot be encoded.
    """
    if record.optional("messages") is not None:
        return _messages(record)[0]
    if record.optional(*_QUESTIONS) is not None:
        question = record.question(*_QUESTIONS, has_image=False)
        written = record.optional("input")
        blank = isinstance(written, str) and not written.strip()
        more = None if blank else record.optional_question("input", has_image=False)
        return question if more is None else f"{question}\n\n{more}"
    if record.optional("text") is None:
        got = f"the fields {shortened(', '.join(record.fields) or '(none)')}"
        raise InputError(record.where, _FORMS, got, f"name one of {', '.join((*_QUESTIONS, 'messages', 'text'))}")
    return None


def _read_answers(record: Record) -> tuple[str, ...]:
    """The answers of an entry, or the text of a document.

    Raises:
        InputError: there is none, or one is blank or cannot be encoded.
    """
    if record.optional("messages") is not None:
        return (_messages(record)[1],)
    if record.optional(*_QUESTIONS) is not None:
        return record.references(*_ANSWERS)
    return (record.question("text", has_image=False),)


def split_document(text: str) -> list[str]:
    """Pieces of at most ``PIECE_CHARACTERS`` characters that together are the text.

    A piece ends before white space, with which the next one begins; where a stretch without white space is longer than
    a piece, it ends within. No piece is blank: white space that would fill one by itself is put to a neighbor.
    """
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = start + PIECE_CHARACTERS
        if end < len(text):
            end = next((p for p in range(end, start, -1) if text[p].isspace() and text[start:p].strip()), end)
        piece = text[start:end]
        if pieces and not (piece.strip() and pieces[-1].strip()):
            pieces[-1] += piece
        else:
            pieces.append(piece)
        start = end
    return pieces


def _read_cluster(record: Record) -> str | None:
    """What the entry's cluster is called, or None.

    Raises:
        InputError: it is neither text nor a whole number.
    """
    return record.identifier("cluster") if record.optional("cluster") is not None else None


def _read_kind(record: Record) -> str:
    """The type of a question.

    Raises:
        InputError: it is no text, or the word that stands for documents.
    """
    kind = record.optional_text(*_TYPES) or TEXT_SET
    if kind == DOCUMENT:
        raise InputError(record.where, "another type of question", repr(kind), "call it something else")
    return kind


def _messages(record: Record) -> tuple[str, str]:
    """The user's question and the assistant's answer."""
    messages = record.required("messages")
    if not isinstance(messages, list):
        raise InputError(record.where, "messages to be a list", type(messages).__name__, "write [{...}, {...}]")
    turns = [as_record(message, f"{record.where}: messages[{place}]") for place, message in enumerate(messages)]
    roles = [turn.text("role") for turn in turns]
    if roles != ["user", "assistant"]:
        got = shortened(", ".join(roles)) or "none"
        if "system" in roles:
            hint = "put what the system message says into the user's: bases are asked without one"
        elif len(roles) > 2:
            hint = "make an entry of each turn, or keep one"
        else:
            hint = "write the question and its answer"
        raise InputError(record.where, "one message of the user and one of the assistant", got, hint)
    return _content(turns[0]), _content(turns[1])


def _content(turn: Record) -> str:
    """A message's text, which may be written as a list of one part."""
    content = turn.required("content")
    if isinstance(content, list):
        parts: list[Any] = content
        if len(parts) != 1 or not isinstance(parts[0], dict) or parts[0].get("type") != "text":
            kinds = ", ".join(_kind_of(part) for part in parts)
            hint = "questions about images belong to vqa/"
            raise InputError(turn.where, "one part of type text", shortened(kinds) or "none", hint)
        return Record(f"{turn.where}: content", parts[0]).question("text", has_image=False)
    return turn.question("content", has_image=False)


def _kind_of(part: Any) -> str:
    """What a part of a message calls itself."""
    kind = part.get("type") if isinstance(part, dict) else part
    return kind if isinstance(kind, str) else value_shown(kind)
