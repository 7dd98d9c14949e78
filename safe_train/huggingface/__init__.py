"""SAFE for Hugging Face: model, processor and configuration, and retention for any ``transformers.Trainer``.

Importing this package makes the classes known to ``AutoConfig``, ``AutoProcessor`` and the Auto classes of models, and
so to ``pipeline``.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto import modeling_auto

from safe_train.finetuning.chats import ChatCollator
from safe_train.finetuning.trainer import Retention, RetentionCallback, RetentionMixin
from safe_train.huggingface.configuration import SafeConfig
from safe_train.huggingface.modeling import SafeForConditionalGeneration
from safe_train.huggingface.pipeline import SafePipeline
from safe_train.huggingface.processing import SafeProcessor, SafeTokenizer

__all__ = [
    "ChatCollator",
    "Retention",
    "RetentionCallback",
    "RetentionMixin",
    "SafeConfig",
    "SafeForConditionalGeneration",
    "SafePipeline",
    "SafeProcessor",
]

AutoConfig.register(SafeConfig.model_type, SafeConfig, exist_ok=True)
AutoProcessor.register(SafeConfig, SafeProcessor, exist_ok=True)
AutoTokenizer.register(SafeConfig, tokenizer_class=SafeTokenizer, exist_ok=True)  # type: ignore[arg-type]
AutoModel.register(SafeConfig, SafeForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(SafeConfig, SafeForConditionalGeneration, exist_ok=True)
# The class behind the any-to-any pipeline.
modeling_auto.AutoModelForMultimodalLM.register(SafeConfig, SafeForConditionalGeneration, exist_ok=True)
