"""Tiny random vision-language models of the classes that people use, each with its real processor."""

from tests.model.families.building import TEXT_LAYERS, Family
from tests.model.families.gemma import save_gemma3, save_paligemma
from tests.model.families.idefics import save_idefics3, save_smolvlm
from tests.model.families.internvl import save_internvl
from tests.model.families.llava import save_fast_vlm, save_llava, save_llava_next, save_llava_onevision
from tests.model.families.qwen import IMAGE as QWEN_IMAGE
from tests.model.families.qwen import save_qwen2_5_vl, save_qwen2_vl, save_qwen3_vl

FAMILIES: dict[str, Family] = {
    "llava": Family("LLaVA", save_llava, "<image>"),
    "llava_next": Family("LLaVA-NeXT", save_llava_next, "<image>"),
    "llava_onevision": Family("LLaVA-OneVision", save_llava_onevision, "<image>"),
    "fast_vlm": Family("FastVLM", save_fast_vlm, "<image>"),
    "qwen2_vl": Family("Qwen2-VL", save_qwen2_vl, QWEN_IMAGE),
    "qwen2_5_vl": Family("Qwen2.5-VL", save_qwen2_5_vl, QWEN_IMAGE),
    "qwen3_vl": Family("Qwen3-VL", save_qwen3_vl, QWEN_IMAGE),
    "idefics3": Family("Idefics3", save_idefics3, "<image>"),
    "smolvlm": Family("SmolVLM", save_smolvlm, "<image>"),
    "gemma3": Family("Gemma 3", save_gemma3, "<start_of_image>"),
    "paligemma": Family("PaliGemma 2", save_paligemma, "<image>"),
    "internvl": Family("InternVL 3", save_internvl, "<IMG_CONTEXT>"),
}
"""By the ``model_type`` of their configurations."""

__all__ = ["FAMILIES", "TEXT_LAYERS", "Family"]
