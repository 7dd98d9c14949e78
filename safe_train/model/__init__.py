"""SAFE's model: a frozen vision-language base, frozen audio encoders, and the trained parts between them."""

from safe_train.model.audio_encoder import AudioEncoder, AudioFeatures, load_audio_encoder
from safe_train.model.base import Base
from safe_train.model.loading import load_base
from safe_train.model.safe_model import AdapterConfig, SafeModel

__all__ = ["AdapterConfig", "AudioEncoder", "AudioFeatures", "Base", "SafeModel", "load_audio_encoder", "load_base"]
