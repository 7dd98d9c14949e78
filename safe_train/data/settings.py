"""Settings of the data: where examples come from and how they are mixed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from safe_train.data.datasets.registry import DATASETS, ExampleKind, dataset_names, suggest
from safe_train.settings import Section

EMBEDDED_DATA = "embedded"

AUTO_SOURCE = "auto"
"""The text-only examples that stand beside the VL examples, if there are any."""

NO_SOURCE = "none"
"""No text-only examples."""

TRAINED_SOURCE = "trained"
"""The audio examples that are trained on."""


@dataclass(frozen=True)
class SourceName:
    """The type of a setting that names a data set with examples of a kind, as registered when it is read.

    Attributes:
        kind: of the examples.
        before: choices that stand before the data sets.
        after: choices that stand behind them.
    """

    kind: ExampleKind
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def choices(self) -> tuple[str, ...]:
        """What the setting may be."""
        return (*self.before, *dataset_names(self.kind), *self.after)

    def require(self, name: str) -> str:
        """The name, if it is a choice.

        Raises:
            PydanticCustomError: it is none; lists the choices, and its ``hint`` names the nearest.
        """
        choices = self.choices()
        if name not in choices:
            context = {"choices": ", ".join(choices), "hint": suggest(name, choices)}
            raise PydanticCustomError("unknown_source", "one of {choices}", context)
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Text that :meth:`require` lets pass."""
        return core_schema.no_info_after_validator_function(self.require, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Text that is one of the choices."""
        return handler(schema) | {"enum": list(self.choices())}


AudioSource = Annotated[str, SourceName("audio")]
EvaluatedAudioSource = Annotated[str, SourceName("audio", after=(TRAINED_SOURCE,))]
VLSource = Annotated[str, SourceName("vl")]
TEXT_SOURCES = SourceName("text", before=(AUTO_SOURCE,), after=(NO_SOURCE,))
TextSource = Annotated[str, TEXT_SOURCES]


class WeightedSource(Section):
    """A data set of several, and how often its examples are drawn."""

    source: str
    """The data set."""
    weight: float = Field(default=1.0, gt=0.0, le=1e6)
    """Its share of the draws is this over the sum of all weights, whatever the number of its examples."""


def _require_mixture(kind: ExampleKind, sources: tuple[WeightedSource, ...]) -> tuple[WeightedSource, ...]:
    """The sources, if each has examples of a kind, and a list for each split.

    Raises:
        PydanticCustomError: a name is none, or stands twice.
    """
    names = [given.source for given in sources]
    for name in names:
        SourceName(kind).require(name)
        if DATASETS[name].location == "pack_root" or names.count(name) > 1:
            context = {"hint": "name each data set of the root once"}
            raise PydanticCustomError("mixture", "data sets with splits, each once", context)
    return sources


AudioMixture = Annotated[tuple[WeightedSource, ...], AfterValidator(partial(_require_mixture, "audio"))]
VLMixture = Annotated[tuple[WeightedSource, ...], AfterValidator(partial(_require_mixture, "vl"))]
TextMixture = Annotated[tuple[WeightedSource, ...], AfterValidator(partial(_require_mixture, "text"))]


class DataSettings(Section):
    """Where the examples come from and how they are mixed."""

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
    val_vl_split: str | None = None
    """Split of the VL and text-only examples that are evaluated on; None for ``val_split``."""
    train_audio_source: AudioSource = "audiocaps"
    """Audio examples to train on: a data set of the root, the clips of the pack, or the procedural clips."""
    train_vl_source: VLSource = "vqa"
    """VL examples to protect: of the root, the pack or the procedural data."""
    val_audio_source: EvaluatedAudioSource = "audiocaps"
    """Audio examples to evaluate on, with ``trained`` for those that are trained on."""
    val_vl_source: VLSource = "vqa"
    """VL examples to evaluate on. Where the pack gives these and those to protect, they are of different images."""
    train_text_source: TextSource = "auto"
    """Text-only examples to protect; ``auto`` takes those that stand beside the VL examples, if there are any."""
    val_text_source: TextSource = "auto"
    """Text-only examples to evaluate on, likewise."""
    train_audio_mixture: AudioMixture = ()
    """Several data sets in place of ``train_audio_source``, as ``[{source: audiocaps, weight: 2}, {source: wavcaps}]``.
    Over a run each has its share of the draws to within an example or two."""
    train_vl_mixture: VLMixture = ()
    """The same of VL examples to protect."""
    train_text_mixture: TextMixture = ()
    """The same of text-only examples to protect."""
    pack_root: str | None = None
    """Folder of the pack."""
    max_train_audio: int | None = Field(default=None, ge=1)
    """Audio examples used for training, drawn by the seed; None for all."""
    max_train_vl: int | None = Field(default=None, ge=1)
    """VL examples used for retention, drawn by the seed; None for all."""
    max_train_text: int | None = Field(default=None, ge=1)
    """Text-only examples used for retention, drawn by the seed; None for all."""
    text_ratio: float = Field(default=0.5, ge=0.0, le=1.0)
    """Fraction of the retention examples of a batch that are text-only, where there are text-only examples."""
    document_tokens: int = Field(default=8, ge=1)
    """Tokens of a document that enter the retention loss, drawn anew each time it comes: all of them would outweigh the
    answers, which have two or three."""
    image_prob: float = Field(default=0.5, ge=0.0, le=1.0)
    """Probability that an audio example also shows an unrelated image."""
    silence_prob: float = Field(default=0.1, ge=0.0, le=1.0)
    """Probability that a retention example has silent audio, not an unrelated clip; at 0, some seeds lose there."""
    loud_prob: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that the unrelated clip of a retention example is 20 dB louder."""
    noise_prob: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that a retention example has white noise instead of an unrelated clip."""
    gains_db: tuple[float, ...] = ()
    """Gains in dB of which one is drawn for the clip of each training example, so that loud clips are learned; 0 dB
    is drawn as often as each of them. Empty for no gains."""
    shuffle_audio: bool = False
    """Train on clips that belong to other examples: a control that leaves nothing to be learned from hearing."""
    audio_question: str = "what do you hear?"
    """Question put to clips that come with captions alone."""
    caption_reference: Literal["drawn", "first"] = "drawn"
    """Of a clip with several captions, train on one that is drawn in each epoch, by the seed, or on the first."""
    num_workers: int = Field(default=0, ge=0)
    """Processes that prepare the batches of the next steps while one trains, and threads that decode the files of an
    evaluation; 0 prepares each batch when its turn comes."""
    prefetch_factor: int = Field(default=2, ge=1, le=1000)
    """Steps that each of these processes may be ahead; their batches are held in memory."""
    length_buckets: bool = False
    """Put audio examples with and without an image through the model apart, instead of padding both to one length."""
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
        in_pack = [name for name in sources if name in DATASETS and DATASETS[name].location == "pack_root"]
        if in_pack and self.pack_root is None:
            raise ValueError(f"the source {in_pack[0]} needs data.pack_root, the folder of a pack")
        return self
