"""What must be so before any test module is imported."""

from __future__ import annotations

import os

# Read when torch is first imported: with two counts of threads in one process, vLLM's CPU
# attention gives up.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A key of whoever runs the tests must never be used by them.
for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"):
    os.environ.pop(name, None)
