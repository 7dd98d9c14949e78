"""What a base reads and learns to say: by its chat template, or, for PaliGemma, as prefix and suffix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from safe_train.errors import InputError
from safe_train.model.prompting import ChatPrompts, Document, PrefixPrompts, Turn, placeholder_in, prompts_of
from tests.model.families import FAMILIES

ASKED = Turn("where is it?", 1)
ANSWERED = Turn("where is it?", 1, "top left")
# Written by hand from each family's markers: the conversation up to the answer's end, and what is learned of it.
CONVERSATIONS = {
    "llava": ("<s>USER: <image>\nwhere is it? ASSISTANT: top left</s>", "top left</s>"),
    "llava_onevision": (
        "<|im_start|>user <image>\nwhere is it?<|im_end|><|im_start|>assistant\ntop left<|im_end|>",
        "top left<|im_end|>",
    ),
    "qwen2_vl": (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>where is it?<|im_end|>\n"
        "<|im_start|>assistant\ntop left<|im_end|>",
        "top left<|im_end|>",
    ),
    "smolvlm": (
        "<|im_start|>User: <image>where is it?<end_of_utterance>\nAssistant: top left<end_of_utterance>",
        "top left<end_of_utterance>",
    ),
    "gemma3": (
        "<s><start_of_turn>user\n<start_of_image>where is it?<end_of_turn>\n"
        "<start_of_turn>model\ntop left<end_of_turn>",
        "top left<end_of_turn>",
    ),
}


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    root = tmp_path_factory.mktemp("processors")
    return {
        name: AutoProcessor.from_pretrained(FAMILIES[name].save(root / name)) for name in [*CONVERSATIONS, "paligemma"]
    }


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_an_answer_follows_its_prompt_and_ends_with_its_turn(processors, name):
    """Also where the template marks the end by another token than the end of the text, or by none at all."""
    prompts = prompts_of(processors[name])
    assert isinstance(prompts, ChatPrompts)
    whole, learned = CONVERSATIONS[name]
    assert prompts.text(ANSWERED) == whole
    assert whole.startswith(prompts.text(ASKED))
    decoded = processors[name].tokenizer.decode(prompts.answer_ids(ANSWERED))
    assert decoded.replace(" ", "") == learned.replace(" ", "")


def test_an_answer_with_words_of_the_prompt_is_not_cut(processors):
    prompts = prompts_of(processors["gemma3"])
    turn = Turn("model or user?", 0, "model")
    assert prompts.text(turn).endswith("<start_of_turn>model\nmodel<end_of_turn>")


def test_a_template_that_opens_thoughts_is_refused(processors):
    """It writes more behind a prompt than before a known answer, so there is nothing that an answer could follow."""
    processor = AutoProcessor.from_pretrained(processors["qwen2_vl"].tokenizer.name_or_path)
    processor.chat_template = processor.chat_template.replace("assistant\n", "assistant\n<think>\n")
    with pytest.raises(InputError, match="prefix-stable"):
        prompts_of(processor).answer_ids(ANSWERED)


def test_a_processor_without_a_template_is_refused(processors):
    processor = AutoProcessor.from_pretrained(processors["llava"].tokenizer.name_or_path)
    processor.chat_template = None
    with pytest.raises(InputError, match="a chat template"):
        prompts_of(processor)


def test_images_of_one_turn_stay_together(processors, images):
    """LLaVA-OneVision cuts a turn's only image into tiles; several are one view each, of four tokens and a break."""
    processor = processors["llava_onevision"]
    token = processor.tokenizer.convert_tokens_to_ids("<image>")
    turns = [Turn("where?", 2), Turn("where?", 1), Turn("where?")]
    ids = prompts_of(processor).encode(turns, [images[:2], images[2:], []], "left")["input_ids"]
    several, alone, none = (ids == token).sum(dim=1).tolist()
    assert (several, none) == (2 * (4 + 1), 0)
    assert alone > 4 + 1


# NumPy's, about what PaliGemma's own processor does with the tensors that it returns.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_paligemma_is_asked_as_its_own_processor_does(processors, images):
    """Token ids, types and pixels of prompts and of answers, for turns that its processor takes: all with images."""
    processor = processors["paligemma"]
    prompts = prompts_of(processor)
    assert isinstance(prompts, PrefixPrompts)
    questions, counts, answers = ["where is it?", "what color?"], [2, 1], ["top left", "red"]
    texts = ["<image>" * count + question for question, count in zip(questions, counts, strict=True)]
    shown = [images[:2], images[2:]]
    for suffix, side in ((None, "left"), (answers, "right")):
        expected = processor(
            text=texts, images=shown, suffix=suffix, padding=True, padding_side=side, return_tensors="pt"
        )
        turns = [Turn(q, n, a) for q, n, a in zip(questions, counts, suffix or [None, None], strict=True)]
        encoded = prompts.encode(turns, shown, side)
        assert set(encoded) == set(expected) - {"labels"}
        real = expected["attention_mask"].bool()
        for name in ("input_ids", "attention_mask", "pixel_values"):
            assert torch.equal(encoded[name], expected[name]), name
        assert torch.equal(encoded["token_type_ids"][real], expected["token_type_ids"][real])
    assert encoded["token_type_ids"].sum(dim=1).tolist() == [len(prompts.answer_ids(turn)) for turn in turns]


def test_paligemma_takes_turns_without_an_image_too(processors, images):
    """Beside others, where its own processor puts the first token into the middle of the question."""
    processor = processors["paligemma"]
    turns = [Turn("what do you hear?"), ASKED]
    encoded = prompts_of(processor).encode(turns, [[], images[:1]], "left")
    decode = processor.tokenizer.decode
    texts = [
        decode(ids[mask.bool()]) for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    ]
    assert [text.replace(" ", "") for text in texts] == [
        "<s>whatdoyouhear?\n", "<image><image><image><image><s>whereisit?\n"
    ]  # fmt: skip
    assert not encoded["token_type_ids"].any()


DOCUMENT = Document("the red star is top left")


def real_rows(encoded, name):
    return [row[mask.bool()] for row, mask in zip(encoded[name], encoded["attention_mask"], strict=True)]


# The token that begins a text: bos where the tokenizer has one, else eos.
@pytest.mark.parametrize("name", [*CONVERSATIONS, "paligemma"])
def test_a_document_is_one_token_that_begins_it_and_its_own_tokens(processors, name):
    """Bare: no template, nothing that ends it; every token of the text is learned."""
    processor, prompts = processors[name], prompts_of(processors[name])
    tokenizer = processor.tokenizer
    of_text = tokenizer(DOCUMENT.text, add_special_tokens=False).input_ids
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    (ids,) = real_rows(prompts.encode([DOCUMENT], [[]], "right"), "input_ids")
    assert ids.tolist() == [first, *of_text]
    assert prompts.answer_ids(DOCUMENT) == of_text


def test_without_a_first_token_the_one_that_ends_texts_begins_a_document(processors):
    processor = AutoProcessor.from_pretrained(processors["llava"].tokenizer.name_or_path)
    processor.tokenizer.bos_token = None
    (ids,) = prompts_of(processor).encode([DOCUMENT], [[]], "right")["input_ids"]
    assert ids[0] == processor.tokenizer.eos_token_id
    processor.tokenizer.eos_token = None
    with pytest.raises(InputError, match="a token that begins or ends texts"):
        prompts_of(processor).encode([DOCUMENT], [[]], "right")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [*CONVERSATIONS, "paligemma"])
def test_documents_and_conversations_in_one_batch_are_what_they_are_alone(processors, images, name, side):
    """Token by token, on either side of the padding, and the images stay with their turns."""
    prompts = prompts_of(processors[name])
    turns = [DOCUMENT, ANSWERED, Document("red " * 60), Turn("what color?", 0, "red"), Turn("how many?", 1, "3")]
    shown = [[], images[:1], [], [], images[1:2]]
    mixed = prompts.encode(turns, shown, side)
    asked = prompts.encode([turns[1], *turns[3:]], [images[:1], [], images[1:2]], side)
    assert set(mixed) == set(asked)
    for key, value in mixed.items():
        if value.shape != mixed["input_ids"].shape:
            assert torch.equal(value, asked[key]), key
            continue
        for index, (turn, of_turn) in enumerate(zip(turns, shown, strict=True)):
            alone = prompts.encode([turn], [of_turn], side)
            row = mixed[key][index][mixed["attention_mask"][index].bool()]
            if key in alone:  # a base that tells images from text does so only where there is an image
                assert torch.equal(row, alone[key][0][alone["attention_mask"][0].bool()]), (key, index)
    padding = mixed["attention_mask"] == 0
    assert (mixed["input_ids"][padding] == processors[name].tokenizer.pad_token_id).all()
    edge = mixed["attention_mask"][:, 0 if side == "right" else -1]
    assert edge.all()


def test_paligemmas_document_attends_backwards_alone(processors):
    """Type 0, all attending to each other, is the first token alone."""
    prompts = prompts_of(processors["paligemma"])
    encoded = prompts.encode([DOCUMENT, ANSWERED], [[], []], "right")
    types, ids = real_rows(encoded, "token_type_ids"), real_rows(encoded, "input_ids")
    assert types[0].tolist() == [0] + [1] * (len(ids[0]) - 1)


def test_placeholders_are_found(processors):
    assert placeholder_in(processors["llava"], "write <image> here") == "<image>"
    assert placeholder_in(processors["qwen2_vl"], "write <|image_pad|> here") == "<|image_pad|>"
    assert placeholder_in(processors["gemma3"], "<start_of_image>") == "<start_of_image>"
    assert placeholder_in(processors["llava"], "an image, <img> and <|image_pad|>") is None
