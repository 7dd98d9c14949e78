"""The files of a published adapter, written the same way from a model in memory and from a run's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from safe_train.errors import InputError
from safe_train.huggingface.binding import with_own_figures
from safe_train.huggingface.configuration import SafeConfig
from safe_train.huggingface.model_card import model_card
from safe_train.huggingface.processing import write_processor_config
from safe_train.io.files import write_text
from safe_train.io.tensor_files import save_tensors

WEIGHTS = "model.safetensors"
MODEL_CARD = "README.md"


def write_adapter(folder: Path, config: SafeConfig, tensors: Mapping[str, Tensor], repo_id: str | None = None) -> None:
    """Writes ``config.json``, ``model.safetensors``, the model card and ``processor_config.json``.

    Figures that were measured on other weights are written nowhere.

    Args:
        folder: made if it is not there; other files in it stay.
        config: of the adapter.
        tensors: the trained parts by name.
        repo_id: the name by which the card tells to load it; by default that of a folder.

    Raises:
        InputError: the folder cannot be written.
    """
    config = with_own_figures(config, tensors)
    write_text(folder / MODEL_CARD, model_card(config, sum(tensor.numel() for tensor in tensors.values()), repo_id))
    config.save_pretrained(folder)
    write_processor_config(folder, config)
    partial = folder / f".{WEIGHTS}.partial"
    try:
        save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial, {"format": "pt"})
        partial.replace(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        got = " ".join(str(error).split())
        raise InputError(folder, "a folder that can be written", got, "make room or choose another") from error
