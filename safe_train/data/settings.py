"""Settings of the data: where examples come from and how they are mixed."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from safe_train.settings import Section

EMBEDDED_DATA = "embedded"

AudioSource = Literal["audiocaps", "wavcaps", "avqa", "pack", "embedded"]
VLSource = Literal["vqa", "pack", "embedded"]
TextSource = Literal["auto", "text", "pack", "embedded", "none"]


class DataSettings(Section):
    """Where the rows come from and how they are mixed."""

    earlier_names: ClassVar = {
        "image_share": "image_prob",
        "loud_share": "loud_prob",
        "noise_share": "noise_prob",
        "silence_share": "silence_prob",
        "text_share": "text_ratio",
    }

    root: str = EMBEDDED_DATA
    """Folder with ``audiocaps/``, ``vqa/`` and, for text alone, ``text/``; ``embedded`` makes the procedural data."""
    train_split: str = "train"
    """Split that is trained on."""
    val_split: str = "val"
    """Split that is evaluated on."""
    train_audio_source: AudioSource = "audiocaps"
    """Audio rows to train on: a data set of the root, the clips of the pack, or the procedural clips."""
    train_vl_source: VLSource = "vqa"
    """VL rows to protect: of the root, the pack or the procedural data."""
    val_audio_source: AudioSource | Literal["trained"] = "audiocaps"
    """Audio rows to evaluate on, with ``trained`` for those that are trained on."""
    val_vl_source: VLSource = "vqa"
    """VL rows to evaluate on. Where the pack gives these and those to protect, they are of different images."""
    train_text_source: TextSource = "auto"
    """Text-only rows to protect; ``auto`` takes those that stand beside the VL rows, if there are any."""
    val_text_source: TextSource = "auto"
    """Text-only rows to evaluate on, likewise."""
    pack_root: str | None = None
    """Folder of the pack."""
    max_train_audio: int | None = Field(default=None, ge=1)
    """Audio rows used for training, drawn by the seed; None for all."""
    max_train_vl: int | None = Field(default=None, ge=1)
    """VL rows used for retention, drawn by the seed; None for all."""
    max_train_text: int | None = Field(default=None, ge=1)
    """Text-only rows used for retention, drawn by the seed; None for all."""
    text_ratio: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of the protected rows of a batch that are text-only, where there are text-only rows."""
    document_tokens: int = Field(default=8, ge=1)
    """Tokens that stand for a protected document in the retention loss, drawn anew at each of its turns: all of them
    would outweigh the answers, which have two or three."""
    image_prob: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of audio rows that also show an unrelated image."""
    silence_prob: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of protected rows that hear silence instead of an unrelated clip; without any, some seeds lose there."""
    loud_prob: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of protected rows whose unrelated clip is 20 dB louder."""
    noise_prob: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of protected rows that hear white noise instead of an unrelated clip."""
    gains_db: tuple[float, ...] = ()
    """Gains in dB of which one is drawn for the clip of each training row, so that loud clips are heard; 0 is drawn as
    often as each of them. None are drawn if there are none."""
    shuffle_audio: bool = False
    """Train on clips that belong to other rows: a control that leaves nothing to be learned from hearing."""
    audio_question: str = "what do you hear?"
    """Question put to clips that come with captions alone."""
    num_workers: int = Field(default=0, ge=0)
    """Threads that decode the clips and images of a batch; 0 decodes them one after the other."""
    length_buckets: bool = False
    """Put audio rows with and without an image through the model apart, instead of padding both to one length."""
    cache_root: str | None = None
    """Folder that keeps audio features, and teacher states if they are cached, for later runs; ``auto`` for one under
    ``$SAFE_CACHE``, None for none."""
    cache_gib: float = Field(default=4.0, gt=0.0, le=1e9)
    """Memory for audio features in GiB, and as much for teacher states; what does not fit is computed or read again."""

    @model_validator(mode="after")
    def _probabilities_sum_to_one_at_most(self) -> DataSettings:
        if self.silence_prob + self.loud_prob + self.noise_prob > 1.0:
            raise ValueError("silence_prob + loud_prob + noise_prob must be at most 1")
        return self

    @model_validator(mode="after")
    def _pack_has_a_folder(self) -> DataSettings:
        audio_and_vl = (self.train_audio_source, self.train_vl_source, self.val_audio_source, self.val_vl_source)
        sources = (*audio_and_vl, self.train_text_source, self.val_text_source)
        if "pack" in sources and self.pack_root is None:
            raise ValueError("the source pack needs data.pack_root, the folder of a pack")
        return self
