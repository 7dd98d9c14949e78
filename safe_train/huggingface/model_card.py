"""The model card of an adapter: metadata for the hub, how to load it, and what was measured with it."""

from __future__ import annotations

import html

from huggingface_hub import ModelCardData

from safe_train.configs.model_configs import EMBEDDED
from safe_train.huggingface.base_name import is_hub_id
from safe_train.huggingface.card_results import eval_results, results
from safe_train.huggingface.configuration import SafeConfig

_TAGS = ["safe", "audio", "vision-language", "adapter", "continual-learning"]
_HOW_TO = """import safe_train.huggingface  # of the package safe-audio: makes the classes known to the Auto classes
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
question = [
    {{"type": "image", "image": "scene.png"}},
    {{"type": "audio", "audio": "clip.wav"}},
    {{"type": "text", "text": "What do you see, and what do you hear?"}},
]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": question}}], add_generation_prompt=True, tokenize=True, return_dict=True
)
answer = model.generate(**inputs.to(model.device), max_new_tokens=32)[:, inputs["input_ids"].shape[1] :]
print(processor.batch_decode(answer, skip_special_tokens=True)[0])"""


def model_card(config: SafeConfig, num_parameters: int, repo_id: str | None = None) -> str:
    """The card as Markdown with YAML metadata that the hub accepts; figures are taken to be of these very weights."""
    name = repo_id or "path/to/this/folder"
    encoders = " and ".join(_code(encoder) for encoder in config.audio_encoders)
    several = "s" if len(config.audio_encoders) > 1 else ""
    base = _code(config.base_model) + (f" at {_code(config.base_revision)}" if config.base_revision else "")
    parts = [
        f"---\n{_metadata(config).to_yaml()}\n---",
        "# SAFE adapter",
        f"{num_parameters:,} trained parameters that connect the audio encoder{several} {encoders} to {base}. "
        "Base and encoders are frozen, are not in this repository and are loaded from their own. With the "
        "gate shut, or without audio, the model is the base bit for bit.",
        f"```python\n{_HOW_TO.format(name=name)}\n```",
    ]
    if config.gate != 1.0:
        parts.append(f"The gate is at {config.gate:g}, not fully open: it scales all that the fusion adds.")
    if config.base_sha256:
        parts.append(
            f"The base is published as {base} by its author; this adapter was trained and measured on a folder with "
            f"weights sha256 {_code(config.base_sha256)}, which were not compared with the author's."
        )
    if not is_hub_id(config.base_model):
        parts.append("The base is not on the hub: this adapter can be loaded only where the same base is.")
    if any(encoder != EMBEDDED and not is_hub_id(encoder) for encoder in config.audio_encoders):
        parts.append("An audio encoder is not on the hub: this adapter can be loaded only where the same encoder is.")
    if config.retention:
        parts += results(config.retention)
    else:
        reason = config.not_evaluated or "no evaluation came with this adapter"
        parts.append(f"{reason[0].upper()}{reason[1:]}.")
    return "\n\n".join(parts) + "\n"


def _metadata(config: SafeConfig) -> ModelCardData:
    found = eval_results(config.retention) if config.retention else []
    return ModelCardData(
        license=config.license,
        library_name="safe-audio",
        pipeline_tag="image-text-to-text",
        tags=_TAGS,
        base_model=config.base_model if is_hub_id(config.base_model) else None,
        base_model_relation="adapter" if is_hub_id(config.base_model) else None,
        model_name="SAFE adapter" if found else None,
        eval_results=found or None,
    )


def _code(text: str) -> str:
    """A code span of one line that nothing in the text can end."""
    plain = " ".join(text.split())
    return f"`{plain}`" if "`" not in plain else f"<code>{html.escape(plain)}</code>"
