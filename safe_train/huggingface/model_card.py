"""The model card of an adapter: metadata for the hub, how to load it, and what hearing costs in seeing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from configs.model_configs import EMBEDDED
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
    """The card as Markdown with YAML metadata that the hub accepts."""
    name = repo_id or "path/to/this/folder"
    encoders = " and ".join(f"`{encoder}`" for encoder in config.audio_encoders)
    base = f"`{config.base_model}`" + (f" at `{config.base_revision}`" if config.base_revision else "")
    parts = [
        f"---\n{_metadata(config).to_yaml()}\n---",
        "# SAFE adapter",
        f"{num_parameters:,} trained parameters that let {base} hear through {encoders}. Base and encoders are frozen, "
        "are not in this repository and are loaded from their own. With the gate shut, or without audio, the model is "
        "the base bit for bit.",
        f"```python\n{_HOW_TO.format(name=name)}\n```",
    ]
    if not _is_hub_id(config.base_model):
        parts.append("The base is not on the hub: this adapter can be loaded only where the same base is.")
    parts += _results(config.retention) if config.retention else ["No evaluation came with this adapter."]
    return "\n\n".join(parts) + "\n"


def _metadata(config: SafeConfig) -> ModelCardData:
    retention = config.retention
    return ModelCardData(
        license=config.license,
        library_name="safe-audio",
        pipeline_tag="image-text-to-text",
        tags=_TAGS,
        base_model=config.base_model if _is_hub_id(config.base_model) else None,
        base_model_relation="adapter" if _is_hub_id(config.base_model) else None,
        model_name="SAFE adapter" if retention else None,
        eval_results=_eval_results(retention) if retention else None,
    )


def _is_hub_id(source: str) -> bool:
    return source != EMBEDDED and not Path(source).exists() and source.count("/") == 1 and source[0] not in "./~"


def _eval_results(retention: dict[str, Any]) -> list[EvalResult]:
    """The accuracies in the hub's own form."""
    data = retention["data"]
    vl = [("visual-question-answering", data["vl"], f"VL, {name}", r) for name, r in retention["vl"].items()]
    audio = [("audio-text-to-text", data["audio"], f"audio, {name}", r) for name, r in retention["audio"].items()]
    return [
        EvalResult(
            task_type=task,
            dataset_type=source,
            dataset_name=f"{source}, {data['split']}",
            metric_type="accuracy",
            metric_name=f"accuracy ({condition})",
            metric_value=round(result["accuracy"][0], 6),
        )
        for task, source, condition, result in [*vl, *audio]
    ]


def _results(retention: dict[str, Any]) -> list[str]:
    bypass = "is the base bit for bit" if retention["bypass_bit_equal"] else "DIFFERS FROM THE BASE"
    table = ["| audio that plays | questions | accuracy | change in points | KL | loss of the margin ruled out |"]
    table.append("|---|---|---|---|---|---|")
    for name, result in retention["vl"].items():
        verdict = "yes" if result["non_inferior"] else "no"
        verdict = verdict if result["is_measurement"] else "not a retention measurement: the fusion had no effect"
        table.append(
            f"| {name} | {result['rows']} | {_percent(result['accuracy'])} | {_points(result['difference'])} "
            f"| {result['kl']:.2g} | {verdict} |"
        )
    hearing = [f"{name} {_percent(result['accuracy'])}" for name, result in retention["audio"].items()]
    gains = [f"against {name} {_points(gain)}" for name, gain in retention["audio_gain"].items()]
    return [
        "## What hearing costs in seeing",
        "Visual questions answered while audio plays, against the untouched base "
        f"({_percent(retention['base_accuracy'])} right). Intervals are 95 %, clustered by image; "
        f"the margin is {100 * retention['margin']:g} points, declared before the measurement. "
        f"Without audio the model {bypass}.",
        "\n".join(table),
        "## What it hears",
        f"Questions about the clip: {', '.join(hearing)}. Gain of the matched clip in points: {', '.join(gains)}.",
        f"Trained with `{retention['variant']}`, seed {retention['seed']}, {retention['step']} steps; evaluated on "
        f"`{retention['data']['vl']}` and `{retention['data']['audio']}` ({retention['data']['split']}).",
    ]


def _percent(interval: list[float]) -> str:
    return f"{100 * interval[0]:.1f} %"


def _points(interval: list[float]) -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
