"""Retention in anyone's training: a mixin for any ``transformers.Trainer``, of text and of image-text models."""
