"""The reader of text-only rows: each form that people have, documents that lose nothing, and what is refused."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_train.data.datasets.conversion import convert_text
from safe_train.data.datasets.records import TextRecord
from safe_train.data.datasets.text import PIECE_CHARACTERS, Text, read_text_list, split_document
from safe_train.data.example import DOCUMENT
from safe_train.errors import InputError


def write(folder, entries, name="text/val.jsonl"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = name.endswith(".jsonl")
    path.write_text("\n".join(map(json.dumps, entries)) if lines else json.dumps(entries))
    return path


CHAT = [{"role": "user", "content": "What is the capital of Peru?"}, {"role": "assistant", "content": "Lima"}]


@pytest.mark.parametrize(
    ("entry", "question", "answers", "kind"),
    [
        ({"prompt": "2 + 2?", "answer": "4"}, "2 + 2?", ("4",), "text"),
        ({"question": "2 + 2?", "answers": ["4", "four"], "type": "sum"}, "2 + 2?", ("4", "four"), "sum"),
        ({"question_text": "2 + 2?", "output": "4", "question_type": "sum"}, "2 + 2?", ("4",), "sum"),
        ({"instruction": "Add.", "input": "2, 2", "output": "4"}, "Add.\n\n2, 2", ("4",), "text"),
        ({"instruction": "Add 2 and 2.", "input": "", "output": "4"}, "Add 2 and 2.", ("4",), "text"),
        ({"prompt": "2 + 2 =", "completion": " 4"}, "2 + 2 =", (" 4",), "text"),
        ({"messages": CHAT}, "What is the capital of Peru?", ("Lima",), "text"),
        ({"text": "Once upon a time."}, "", ("Once upon a time.",), DOCUMENT),
    ],
)
def test_forms(tmp_path, entry, question, answers, kind):
    write(tmp_path, [entry])
    assert Text().records(tmp_path, "val") == [TextRecord("1", question, answers, kind, "1")]


def test_a_chats_text_may_be_a_list_of_one_part(tmp_path):
    parts = [message | {"content": [{"type": "text", "text": message["content"]}]} for message in CHAT]
    path = write(tmp_path, [{"messages": parts}])
    assert read_text_list(path)[0].question == CHAT[0]["content"]


@pytest.mark.parametrize("name", ["text_val.jsonl", "text_val.json", "val.jsonl", "val.json"])
def test_names_of_the_list(tmp_path, name):
    write(tmp_path, [{"id": "a", "text": "x"}], f"text/{name}")
    assert [example.text_id for example in Text().records(tmp_path, "val")] == ["a"]


def test_ids_and_clusters_are_text_or_numbers_or_the_place_in_the_list(tmp_path):
    entries = [
        {"id": 7, "prompt": "a", "answer": "b", "cluster": 3},
        {"question_id": "x", "prompt": "a", "answer": "b", "cluster": "sums"},
        {"prompt": "a", "answer": "b"},
    ]
    found = read_text_list(write(tmp_path, entries))
    assert [(example.text_id, example.cluster) for example in found] == [("7", "3"), ("x", "sums"), ("3", "3")]


def test_rows_have_neither_image_nor_clip_and_the_majority_answer_first(tmp_path):
    entries = [{"prompt": "?", "answers": ["a", "b", "b"], "type": "t"}, {"id": "d", "text": "a document"}]
    question, document = convert_text(read_text_list(write(tmp_path, entries)))
    assert (question.image, question.audio, question.answers, question.kind) == (None, None, ("b", "a", "b"), "t")
    assert (document.question, document.answers, document.is_document) == ("", ("a document",), True)
    assert not question.is_document


def test_a_long_document_is_rows_of_one_cluster(tmp_path):
    words = [f"word{index}" for index in range(800)]
    text = " ".join(words)
    examples = read_text_list(write(tmp_path, [{"id": "d", "text": text}, {"id": "e", "text": "short"}]))
    assert [e.text_id for e in examples] == ["d", "d#2", "d#3", "d#4", "e"]
    assert {e.cluster for e in examples[:4]} == {"d"}
    assert "".join(e.answers[0] for e in examples[:4]) == text
    assert [word for e in examples[:4] for word in e.answers[0].split()] == words  # no word is cut in two


spaces_and_words = st.text(alphabet=st.sampled_from("aé \n\t文"), max_size=60)


@given(parts=st.lists(st.one_of(spaces_and_words, st.sampled_from(["x" * 2_500, " " * 2_500, "\n" * 4_100]))))
def test_pieces_lose_nothing_and_none_is_blank(parts):
    text = "".join(parts)
    pieces = split_document(text)
    assert "".join(pieces) == text
    if text.strip():
        assert all(piece.strip() for piece in pieces)


@given(words=st.lists(st.text(alphabet="abc", min_size=1, max_size=30), min_size=1, max_size=700))
def test_pieces_are_as_long_as_they_may_be(words):
    pieces = split_document(" ".join(words))
    assert all(len(piece) <= PIECE_CHARACTERS for piece in pieces)
    for piece, following in pairwise(pieces):
        first_word = following.split()[0]
        assert len(piece) + 1 + len(first_word) > PIECE_CHARACTERS
    assert [word for piece in pieces for word in piece.split()] == words


def test_what_has_no_white_space_is_cut_where_the_piece_is_full():
    assert [len(piece) for piece in split_document("文" * 4_500)] == [2_000, 2_000, 500]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, r"val.jsonl:2: expected a question with its answer, messages, or a text, got the fields \(none\)"),
        ({"foo": 1}, "got the fields foo"),
        ({"prompt": " ", "answer": "a"}, "prompt or question or question_text or instruction to be text"),
        ({"prompt": "a"}, "expected the field answers or answer or output or completion, got the fields prompt"),
        ({"prompt": "a", "answers": []}, "to be text or a list of texts"),
        ({"prompt": "a", "answers": ["b", ""]}, "to be text or a list of texts"),
        ({"instruction": "a", "input": 3, "output": "b"}, "expected the field input to be text, got int 3"),
        ({"prompt": "a", "answer": "b", "id": [1]}, "id or question_id to be text"),
        ({"prompt": "a", "answer": "b", "type": "document"}, "another type of question, got 'document'"),
        ({"prompt": "a", "answer": "b", "id": "1"}, "an id of its own, got 1 again"),
        ({"text": "\n"}, "expected the field text to be text"),
        ({"text": "cut \ud83d emoji"}, r"text that is Unicode, got the lone surrogate U\+D83D"),
        ({"prompt": "\udc00", "answer": "b"}, r"the lone surrogate U\+DC00"),
        ({"prompt": "a", "answer": "\udc00"}, r"the lone surrogate U\+DC00"),
        ({"messages": CHAT + CHAT}, "one message of the user and one of the assistant, got user, assistant, user, ass"),
        (
            {"messages": [{"role": "system", "content": "Be brief."}, *CHAT]},
            "got system, user, assistant; put what",
        ),
        ({"messages": CHAT[:1]}, "got user; write the question and its answer"),
        ({"messages": []}, "got none"),
        ({"messages": "hello"}, "messages to be a list, got str"),
        ({"messages": [CHAT[0] | {"content": ""}, CHAT[1]]}, r"messages\[0\]: expected the field content to be text"),
        ({"messages": [CHAT[0] | {"content": [{"type": "image"}]}, CHAT[1]]}, "one part of type text, got image"),
    ],
)
def test_what_is_refused_is_one_line(tmp_path, entry, message):
    write(tmp_path, [{"prompt": "a", "answer": "b"}, entry])
    with pytest.raises(InputError, match=message) as caught:
        Text().records(tmp_path, "val")
    assert "\n" not in str(caught.value)


def test_a_piece_with_the_name_of_another_entry_is_refused(tmp_path):
    path = write(tmp_path, [{"id": "d", "text": "a " * 1_500}, {"id": "d#2", "text": "b"}])
    with pytest.raises(InputError, match="an id of its own for each piece, got d#2 twice"):
        read_text_list(path)


def test_missing_and_empty_lists_are_told(tmp_path):
    with pytest.raises(InputError, match="the folder of the data set text"):
        Text().records(tmp_path, "val")
    write(tmp_path, [{"text": "x"}])
    with pytest.raises(InputError, match=r"expected text_train.jsonl or .* name a split other than 'train'"):
        Text().records(tmp_path, "train")
    (tmp_path / "text/val.jsonl").write_text("\n")
    with pytest.raises(InputError, match="at least one entry"):
        Text().records(tmp_path, "val")
