"""Audio files of any common format, decoded to mono waveforms."""
