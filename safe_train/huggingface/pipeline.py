"""The pipeline of chats for batches of any rows: with and without images, with and without clips, of any length."""

from __future__ import annotations

from typing import Any

from transformers import ImageTextToTextPipeline
from transformers.utils.chat_template_utils import Chat


class SafePipeline(ImageTextToTextPipeline):
    """``pipeline("image-text-to-text", model=..., pipeline_class=SafePipeline, batch_size=8)``.

    The pipeline of transformers encodes each row alone, and joins only rows with the same inputs. Here the processor
    encodes the chats of a batch together, as it does when it is called with them.
    """

    def preprocess(self, inputs: Any = None, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """The chat as it is, with what the processor is to be told; anything but a chat as in any pipeline."""
        return (
            {"text": inputs, "options": options} if isinstance(inputs, Chat) else super().preprocess(inputs, **options)
        )

    def _forward(self, model_inputs: Any, generate_kwargs: dict[str, Any] | None = None) -> Any:
        """Encodes the chats of the batch, one or a list of them, and answers."""
        if "options" not in model_inputs:
            return super()._forward(model_inputs, generate_kwargs)
        chats, options = model_inputs["text"], model_inputs["options"]
        if isinstance(chats, Chat):
            chats, options = [chats], [options]
        given = dict(options[0])
        goes_on = given.pop("continue_final_message", None)
        if goes_on is None:
            goes_on = chats[0].messages[-1]["role"] == "assistant"
        given.pop("timeout", None)
        processor: Any = self.processor
        encoded = processor.apply_chat_template(
            [chat.messages for chat in chats],
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            tokenize=True,
            return_dict=True,
            **given,
        ).to(dtype=self.dtype)
        inputs: Any = self._ensure_tensor_on_device(encoded, device=self.device)
        return super()._forward({**inputs, "text": chats}, generate_kwargs)
