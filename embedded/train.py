"""Trains the two embedded models on the King James Bible with the project's own FloatMamba.

    bible -f "Gen1:1-Rev22:21" > kjv.txt                     # Debian: bible-kjv and bible-kjv-text
    python embedded/train.py kjv.txt embedded --kind mamba2  # -> embedded/mamba2-kjv
    python embedded/train.py kjv.txt embedded --kind mamba1
    python embedded/train.py --evaluate embedded/mamba2-kjv  # bits a byte on validation.txt beside it

Text, split and tokenizer: corpus.py. Sizes and initial weights: initial.py. Stored formats: formats.py.
The weights kept are those with the fewest bits a byte on the selection chapters, after rounding to the stored
dtype; the figure printed at the end is on the validation chapters, which took part in neither.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from corpus import (
    EOS,
    Corpus,
    encode,
    read_chapters,
    read_documents,
    split,
    train_tokenizer,
    write_documents,
)
from formats import STORED_DTYPE, write_checkpoint
from initial import CONFIGS, initial_tensors
from scoring import bits_a_byte
from tokenizers import Tokenizer
from torch import Tensor

from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.runtime.errors import QuambaError


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over a tenth of the steps, at most 200, then a cosine down to 1 % of the peak."""

    steps: int
    batch: int  # windows a step
    length: int  # tokens a window
    learning_rate: float
    weight_decay: float  # matrices only
    weight_dropout: float  # share of projection weights set to zero in each step
    token_dropout: float  # share of input tokens replaced by end of text in each step
    select_every: int
    seed: int

    def rate(self, step: int) -> float:
        warmup = min(200, max(1, self.steps // 10))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """One model, its optimizer and its training stream on one device."""

    def __init__(
        self, config: MambaConfig, schedule: Schedule, stream: np.ndarray, device: torch.device
    ) -> None:
        self.config, self.schedule, self.device = config, schedule, device
        tensors = initial_tensors(config, schedule.seed)
        self.tensors = {name: t.to(device).requires_grad_() for name, t in tensors.items()}
        self.stream = torch.from_numpy(stream).to(device)
        self.generator = np.random.default_rng(schedule.seed)
        self.offsets = torch.zeros(schedule.batch, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), device=device)
        self.optimizer = self._optimizer()
        torch.manual_seed(schedule.seed)
        self._advance: Callable[[], None] = self._eager

    def _optimizer(self) -> torch.optim.Optimizer:
        matrices = [t for name, t in self.tensors.items() if _is_matrix(name)]
        others = [t for name, t in self.tensors.items() if not _is_matrix(name)]
        on_gpu = self.device.type == "cuda"
        groups = [
            {"params": matrices, "weight_decay": self.schedule.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        rate = torch.tensor(self.schedule.learning_rate, device=self.device)
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True, capturable=on_gpu)

    def step(self, step: int) -> None:
        schedule = self.schedule
        last = len(self.stream) - schedule.length
        self.offsets.copy_(torch.from_numpy(self.generator.integers(0, last, schedule.batch)))
        for group in self.optimizer.param_groups:
            group["lr"].fill_(schedule.rate(step))
        if step == 3 and self.device.type == "cuda":
            self._advance = self._captured()
        self._advance()

    def _eager(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self._forward_backward_update()

    def _captured(self) -> Callable[[], None]:
        """The same step as one CUDA graph: thousands of small kernels, launched once."""
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._forward_backward_update()
        return graph.replay

    def _forward_backward_update(self) -> None:
        schedule = self.schedule
        tokens = self.stream[self.offsets[:, None] + torch.arange(schedule.length + 1, device=self.device)]
        inputs, targets = tokens[:, :-1], tokens[:, 1:]  # (B, L) each
        hidden = torch.rand(inputs.shape, device=self.device) < schedule.token_dropout
        logits, _ = self._thinned()(inputs.masked_fill(hidden, EOS))
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.tensors.values(), 1.0)
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def _thinned(self) -> FloatMamba:
        share = self.schedule.weight_dropout
        thin = {
            name: F.dropout(t, share) if "_proj.weight" in name else t for name, t in self.tensors.items()
        }
        return FloatMamba(self.config, thin)

    def stored(self) -> dict[str, Tensor]:
        """The weights as a checkpoint will hold them, back in fp32."""
        dtype = STORED_DTYPE[self.config.kind]
        return {name: t.detach().to(dtype).float() for name, t in self.tensors.items()}


def _is_matrix(name: str) -> bool:
    return "_proj.weight" in name or "embedding" in name


def train(
    trainer: Trainer, tokenizer: Tokenizer, corpus: Corpus, directory: Path
) -> tuple[FloatMamba, list[dict[str, float]]]:
    """Writes the best model so far into directory; returns the best and the curve, one entry a selection."""
    schedule, curve, started = trainer.schedule, [], time.perf_counter()
    best, least = FloatMamba(trainer.config, trainer.stored()), math.inf
    for step in range(schedule.steps):
        trainer.step(step)
        if (step + 1) % schedule.select_every and step + 1 < schedule.steps:
            continue
        model = FloatMamba(trainer.config, trainer.stored())
        held_out = bits_a_byte(model, tokenizer, corpus.selection, device=trainer.device, batch=32)
        point = {
            "step": step + 1,
            "train_nats_a_token": round(trainer.loss.item(), 4),
            "selection_bits_a_byte": round(held_out, 4),
            "seconds": round(time.perf_counter() - started, 1),
        }
        curve.append(point)
        print(json.dumps(point), flush=True)
        if held_out < least:
            best, least = model, held_out
            write_checkpoint(trainer.config, model.tensors, tokenizer, EOS, directory)
    return best, curve


def evaluate(directory: Path, text: Path) -> float:
    """Bits a byte of a checkpoint directory on the documents of a text file."""
    checkpoint = load_checkpoint(directory)
    if checkpoint.tokenizer_path is None:
        raise QuambaError(f"{directory} has no tokenizer.json", fix="train it again with embedded/train.py")
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_path))
    return bits_a_byte(FloatMamba.from_checkpoint(checkpoint), tokenizer, read_documents(text))


def train_command(arguments: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    schedule = Schedule(**{name: getattr(arguments, name) for name in Schedule.__dataclass_fields__})
    corpus = split(read_chapters(arguments.text))
    tokenizer = train_tokenizer(corpus.train)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_documents(corpus.calibration, arguments.out / "calibration.txt")
    write_documents(corpus.validation, arguments.out / "validation.txt")
    directory = arguments.out / f"{arguments.kind}-kjv"
    trainer = Trainer(CONFIGS[arguments.kind], schedule, encode(tokenizer, corpus.train), device)
    model, curve = train(trainer, tokenizer, corpus, directory)
    validation = bits_a_byte(model, tokenizer, corpus.validation, device=device, batch=32)
    record = {
        "kind": arguments.kind,
        "text_sha256": hashlib.sha256(arguments.text.read_bytes()).hexdigest(),
        "parameters": sum(t.numel() for t in trainer.tensors.values()),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "schedule": asdict(schedule),
        "curve": curve,
        "validation_bits_a_byte": round(validation, 4),
    }
    (directory / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{directory}: {validation:.4f} bits a byte on validation.txt")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path, nargs="?", help='output of `bible -f "Gen1:1-Rev22:21"`')
    parser.add_argument(
        "out", type=Path, nargs="?", help="receives KIND-kjv/, calibration.txt, validation.txt"
    )
    parser.add_argument("--kind", choices=sorted(CONFIGS), default="mamba2")
    parser.add_argument(
        "--evaluate", type=Path, metavar="DIR", help="only print bits a byte of this checkpoint"
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--weight-dropout", type=float, default=0.1)
    parser.add_argument("--token-dropout", type=float, default=0.0)
    parser.add_argument("--select-every", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1611)
    arguments = parser.parse_args()
    if arguments.evaluate is None and arguments.out is None:
        parser.error("give TEXT and OUT to train, or --evaluate DIR")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    try:
        if arguments.evaluate is None:
            train_command(arguments)
            return
        text = arguments.evaluate.parent / "validation.txt"
        print(f"{arguments.evaluate}: {evaluate(arguments.evaluate, text):.4f} bits a byte on {text}")
    except QuambaError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(int(error.code)) from None


if __name__ == "__main__":
    main()
