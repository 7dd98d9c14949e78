"""What is filled into processors of older folders, and which sizes of images are refused."""

from types import SimpleNamespace

import pytest
from transformers import CLIPVisionConfig, LlavaConfig, SiglipVisionConfig

from safe_train.errors import InputError
from safe_train.model.trial import check_image_size, complete_processor


def completed(tower, **fields):
    """A processor after it was completed from LLaVA's configuration with this tower."""
    tokenizer = SimpleNamespace(pad_token="<pad>", eos_token="</s>")
    processor = SimpleNamespace(tokenizer=tokenizer, **fields)
    complete_processor(processor, LlavaConfig(vision_config=tower, vision_feature_select_strategy="full"))
    return processor


@pytest.mark.parametrize(("tower", "tokens"), [(CLIPVisionConfig(), 1), (SiglipVisionConfig(), 0)])
def test_a_class_token_is_counted_where_the_tower_has_one(tower, tokens):
    """CLIP's has one before the patches, SigLIP's has none; a token too many and no image fits its text."""
    assert completed(tower, num_additional_image_tokens=0).num_additional_image_tokens == tokens


def test_what_a_processor_says_stays():
    found = completed(CLIPVisionConfig(patch_size=14), patch_size=7, vision_feature_select_strategy="default")
    assert (found.patch_size, found.vision_feature_select_strategy) == (7, "default")
    assert not hasattr(found, "num_additional_image_tokens")
    assert found.tokenizer.pad_token == "<pad>"


def test_what_it_does_not_say_is_the_models():
    found = completed(CLIPVisionConfig(patch_size=14), patch_size=None, vision_feature_select_strategy=None)
    assert (found.patch_size, found.vision_feature_select_strategy) == (14, "full")


SIZES = [
    ({"size": {"height": 8_192, "width": 8_192}}, None),
    ({"size": {"height": 336, "width": 8_193}}, "size.width"),
    ({"size": {"shortest_edge": 8_193}}, "size.shortest_edge"),
    ({"size": {"shortest_edge": 336}, "crop_size": {"height": 30_000, "width": 336}}, "crop_size.height"),
    ({"size": None, "crop_size": None}, None),
    # Of Qwen's, the edges are areas, and heights and widths are not.
    ({"size": {"shortest_edge": 3_136, "longest_edge": 12_845_056}, "merge_size": 2}, None),
    ({"size": {"height": 30_000, "width": 336}, "merge_size": 2}, "size.height"),
]


@pytest.mark.parametrize(("fields", "refused"), SIZES)
def test_images_that_no_machine_holds_are_refused(fields, refused):
    processor = SimpleNamespace(image_processor=SimpleNamespace(**fields))
    if refused is None:
        check_image_size(processor, "folder")
        return
    with pytest.raises(InputError, match=rf"folder: expected an image processor with {refused} of at most 8192 pixels"):
        check_image_size(processor, "folder")
