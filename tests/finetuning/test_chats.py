"""Conversations, prompts with completions and texts become rows whose labels are what is answered."""

import copy

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from safe_train.errors import InputError
from safe_train.finetuning.chats import ChatCollator, images_in
from safe_train.finetuning.rows import RetentionBatch, RetentionExamples, collator_for, pad_rows
from tests.finetuning.test_trl import PROTECTED, chat
from tests.finetuning.test_trl import tokenizer as _tokenizer
from tests.finetuning.tiny_images import image_rows, loaded
from tests.finetuning.tiny_text import collate
from tests.model.families.building import tokenizer_with

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


def test_a_completion_is_tokenized_behind_its_prompt_and_ends_once(tmp_path):
    """As it is read: by itself, this tokenizer begins a text with a space; one that adds its own end adds it once."""
    backend = Tokenizer(models.BPE({"\u2581": 0, "a": 1, "b": 2, "</s>": 3, "\u2581a": 4, "<s>": 5}, [("\u2581", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="<s>", pad_token="</s>")
    for completion in ("a", "a</s>"):
        collated = ChatCollator(made)([{"prompt": "ab", "completion": completion}])
        assert collated["input_ids"].tolist() == [[4, 2, 1, 3]]
        assert collated["labels"].tolist() == [[-100, -100, 1, 3]]
    ends = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 5), ("</s>", 3)])
    backend.post_processor = ends
    ending = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="<s>", pad_token="</s>")
    collated = ChatCollator(ending)([{"prompt": "ab", "completion": "a"}])
    assert collated["input_ids"].tolist() == [[5, 4, 2, 1, 3]]
    assert collated["labels"].tolist() == [[-100, -100, -100, 1, 3]]


@pytest.mark.parametrize("answer", ["a", "final", "e", "", "red"])
def test_an_answer_that_is_part_of_a_header_is_labeled_whole(answer):
    made = tokenizer_with("<|turn|>", "<|channel|>", "<|says|>", "<|end|>")
    made.chat_template = (
        "{% for m in messages %}<|turn|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|says|>"
        "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|turn|>assistant{% endif %}"
    )
    (found,) = answers(ChatCollator(made), [{"messages": chat("is it?", answer)}])
    assert "".join(found.split()) == f"<|channel|>final<|says|>{answer}<|end|>"


def test_tools_and_settings_of_the_template_are_given_to_it(tokenizer):
    made = copy.deepcopy(tokenizer)
    made.chat_template = (
        "{% if tools %}{{ tools[0].name }}<|end|>{% endif %}{% if loud %}loud<|end|>{% endif %}" + made.chat_template
    )
    row = {"messages": chat("is it red?", "no"), "tools": [{"name": "look"}], "chat_template_kwargs": {"loud": True}}
    collated = ChatCollator(made)([row, {"messages": row["messages"]}])
    texts = [
        made.decode(ids[mask.bool()])
        for ids, mask in zip(collated["input_ids"], collated["attention_mask"], strict=True)
    ]
    assert texts[0].replace(" ", "").startswith("look<|end|>loud<|end|><|turn|>user")
    assert texts[1].replace(" ", "").startswith("<|turn|>user")
    assert answers(ChatCollator(made), [row]) == ["no<|end|>"]


def test_images_as_data_sets_have_them_are_opened(tmp_path):
    (row,) = image_rows(1, 3)
    row["images"][0].save(tmp_path / "it.png")
    collator = ChatCollator(loaded("llava")[1])
    expected = collator([row])["pixel_values"]
    data = (tmp_path / "it.png").read_bytes()
    for image in ({"bytes": data, "path": None}, {"bytes": None, "path": str(tmp_path / "it.png")}):
        assert torch.equal(collator([{**row, "images": [image]}])["pixel_values"], expected)
    assert torch.equal(collator([{**row, "images": row["images"][0]}])["pixel_values"], expected)
    assert "pixel_values" not in collator([{**row, "images": [None]}])


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
        ({"text": "a", "images": ["x"]}, "images beside messages, got images beside plain text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}, *chat("", "b")[1:]]},
            "parts of type text or image, got 'video'",
        ),
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
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(InputError, match="a chat template, for rows of messages, got none"):
        ChatCollator(bare)([{"messages": chat("a", "b")}])
    assert answers(ChatCollator(bare), [{"prompt": "a", "completion": " red"}])[0].split() == ["red</s>"]


# --- which collator


def flattened(rows):
    """One row of all, as collators without padding make it."""
    whole = [token for row in rows for token in row["input_ids"]]
    return {"input_ids": torch.tensor([whole]), "labels": torch.tensor([whole])}


def refuses(_rows):
    raise KeyError("chosen")


def relabels(rows):
    """As a collator for language modeling does: every token is to be predicted."""
    return {**collate(rows), "labels": collate(rows)["input_ids"]}


@pytest.mark.parametrize(
    "given", [flattened, refuses, list, relabels], ids=["one row of all", "another kind", "no tensors", "own labels"]
)
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
