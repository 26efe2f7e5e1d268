"""Hugging Face transformers as an engine."""
