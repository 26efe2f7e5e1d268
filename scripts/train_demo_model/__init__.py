"""Trains the demo model: a small Qwen3-architecture chat model on CLINC150, from scratch."""
