"""Conversations, prompts with completions and texts become rows whose labels are what is answered."""

import pytest
import torch
from datasets import Dataset

from safe_train.errors import InputError
from safe_train.finetuning.chats import ChatCollator, images_in
from safe_train.finetuning.rows import RetentionBatch, RetentionExamples, collator_for, pad_rows
from tests.finetuning.test_trl import PROTECTED, chat
from tests.finetuning.test_trl import tokenizer as _tokenizer
from tests.finetuning.tiny_images import image_rows, loaded
from tests.finetuning.tiny_text import collate

tokenizer = _tokenizer


def answers(collator, rows):
    """The labeled tokens of each row, as text."""
    collated = collator(rows)
    decode = collator.tokenizer.decode
    return [decode(row[row != -100]) for row in collated["labels"]]


def test_the_last_answer_of_a_conversation_is_labeled(tokenizer):
    longer = [*chat("is it red?", "no"), *chat("is it blue?", "yes")]
    rows = [{"messages": chat("where is the star?", "top left")}, {"messages": longer}]
    assert answers(ChatCollator(tokenizer), rows) == ["top left<|end|>", "yes<|end|>"]


def test_a_completion_is_labeled(tokenizer):
    rows = [{"prompt": "where is the star?", "completion": " top left"}, {"prompt": "is it red?", "completion": " no"}]
    assert [text.split() for text in answers(ChatCollator(tokenizer), rows)] == [["top", "left</s>"], ["no</s>"]]
    as_messages = [{"prompt": chat("is it red?", "")[:1], "completion": chat("", "no")[1:]}]
    assert answers(ChatCollator(tokenizer), as_messages) == ["no<|end|>"]


def test_a_text_is_labeled_but_for_what_begins_it(tokenizer):
    collated = ChatCollator(tokenizer)([{"text": "the star is red"}])
    assert collated["input_ids"][0, 0] == tokenizer.bos_token_id
    assert collated["labels"][0, 0] == -100
    assert torch.equal(collated["labels"][0, 1:], collated["input_ids"][0, 1:])


def test_images_of_columns_and_of_messages_are_the_same():
    (row,) = image_rows(1, 3)
    picture = row["images"][0]
    asked = [{"type": "image", "image": picture}, {"type": "text", "text": row["messages"][0]["content"]}]
    named = [{"role": "user", "content": asked}, row["messages"][1]]
    collator = ChatCollator(loaded("llava")[1])
    expected = collator([row])
    for other in ({"messages": named}, {"messages": row["messages"], "image": picture}):
        assert images_in(other) == [picture]
        found = collator([other])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_data_set_of_conversations_is_read_as_it_is(tokenizer):
    """``datasets`` fills keys that a message lacks with None."""
    mixed = Dataset.from_list([{"messages": [{"role": "user", "content": "a", "name": "x"}, *chat("", "b")[1:]]}])
    assert answers(ChatCollator(tokenizer), list(mixed)) == ["b<|end|>"]
    examples = RetentionExamples(PROTECTED, ChatCollator(tokenizer), batch_size=4, seed=0, device=torch.device("cpu"))
    assert examples.batch(0).num_rows == 4


@pytest.mark.parametrize(
    ("row", "refused"),
    [
        ({"messages": []}, "messages that end in the assistant's answer, got no message"),
        ({"messages": chat("a", "b")[:1]}, "messages that end in the assistant's answer, got one of role 'user'"),
        ({"prompt": "a"}, "messages, prompt and completion, or text, got prompt"),
        ({"messages": chat("a", "b"), "images": ["x"]}, "a processor, for rows with images, got a tokenizer"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(tokenizer, row, refused):
    with pytest.raises(InputError, match=f"expected {refused}"):
        ChatCollator(tokenizer)([row])


def test_rows_of_both_kinds_are_refused(tokenizer):
    with pytest.raises(InputError, match="rows of messages alone, or none of them, got both kinds"):
        ChatCollator(tokenizer)([{"messages": chat("a", "b")}, {"text": "a"}])


def test_a_tokenizer_without_a_template_is_refused_for_messages(tokenizer):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(InputError, match="a chat template, for rows of messages, got none"):
        ChatCollator(bare)([{"messages": chat("a", "b")}])
    assert answers(ChatCollator(bare), [{"prompt": "a", "completion": "red"}]) == ["red</s>"]


# --- which collator


def flattened(rows):
    """One row of all, as collators without padding make it."""
    whole = [token for row in rows for token in row["input_ids"]]
    return {"input_ids": torch.tensor([whole]), "labels": torch.tensor([whole])}


def refuses(_rows):
    raise KeyError("chosen")


@pytest.mark.parametrize("given", [flattened, refuses, list], ids=["one row of all", "another kind", "no tensors"])
def test_token_ids_are_padded_where_the_trainers_collator_is_for_other_rows(tokenizer, given):
    rows = [{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}, {"input_ids": [6, 7], "labels": [-100, 7]}]
    chosen = collator_for(rows, given, tokenizer)
    collated = chosen(rows)
    assert collated["input_ids"].tolist() == [[3, 4, 5], [6, 7, tokenizer.pad_token_id]]
    assert collated["labels"].tolist() == [[-100, 4, 5], [-100, 7, -100]]
    assert collated["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_the_trainers_collator_is_used_where_it_can_be(tokenizer):
    rows = [{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}]
    assert collator_for(rows, collate, tokenizer) is collate
    assert collator_for([{"pixels": 1}], collate, tokenizer) is collate
    assert isinstance(collator_for([{"text": "a"}], collate, tokenizer), ChatCollator)
    assert collator_for([{"text": "a"}], collate, None) is collate


def test_padding_is_that_of_the_reference():
    rows = [{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}, {"input_ids": [6, 7], "labels": [-100, 7]}]
    expected, found = collate(rows), pad_rows(rows, 0)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    batch = RetentionBatch.of(found, torch.device("cpu"))
    assert batch.labels.tolist() == [4, 5, 7]
