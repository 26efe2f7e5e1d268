"""Trains the demo model from scratch and writes its checkpoint and model card.

A Qwen3-architecture chat model of 2.4 million parameters that sorts a customer's message into one
of the 150 intents of CLINC150. It reads configs/demo/clinc150 and nothing else, needs no GPU and no
network, and takes 15 to 25 minutes on one CPU thread. The same seed, thread count and
machine give the same weights, byte for byte.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Run as a folder, Python puts the folder itself on the path and not the one it lies in.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers.utils import logging as transformers_logging

from train_demo_model.card import write_card
from train_demo_model.data import split, training_questions
from train_demo_model.evaluate import evaluate
from train_demo_model.export import check_logits, save
from train_demo_model.prompts import WORDINGS, Form
from train_demo_model.tokenizer import train_tokenizer
from train_demo_model.train import CONTEXT, SIZES, configuration, train

OUTPUT = Path(__file__).resolve().parents[2] / "configs" / "demo" / "model"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train_demo_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="checkpoint")
    parser.add_argument("--epochs", type=int, default=12, help="passes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: %(default)s)")
    parser.add_argument(
        "--size", choices=sorted(SIZES), default="full", help="of the network (default: full)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="train on N questions only, to try the script out"
    )
    return parser.parse_args()


def main() -> None:
    """Tokenizer, training, checkpoint, check against transformers, evaluation, model card."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.use_deterministic_algorithms(True)
    questions = training_questions()[: arguments.limit]
    tokenizer = train_tokenizer(questions, CONTEXT, arguments.seed)
    config = configuration(SIZES[arguments.size], tokenizer)
    _log(f"{len(questions)} questions, {len(tokenizer)} tokens, {arguments.epochs} epochs")
    network, run = train(config, tokenizer, questions, arguments.epochs, arguments.seed, log=_log)
    save(network, config, tokenizer, arguments.output)
    _log(f"logits as in transformers, within {check_logits(network, arguments.output):.1g}")
    figures = evaluate(arguments.output, log=_log)
    variants = len(WORDINGS[Form.LABEL]) - 1
    write_card(arguments.output, run, config, figures, len(split("test")), variants)
    _log(f"{run.minutes:.1f} minutes of training; written to {arguments.output}")


if __name__ == "__main__":
    main()
