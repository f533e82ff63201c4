"""A bundle, or an export, opened: verified first, then its tokenizer and its engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quamba_export.runtime.chat_text import ChatTemplate, read_chat_template
from quamba_export.runtime.decoder import HostDecoder
from quamba_export.runtime.engine import Engine
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.generate import Generation, Limits, Piece, generate, stream
from quamba_export.runtime.held_files import Locate, shown
from quamba_export.runtime.manifest import Manifest, open_folder
from quamba_export.runtime.ort_session import Provider
from quamba_export.runtime.sampling import Sampling
from quamba_export.runtime.vnni_probe import probe_int8_products

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GREEDY = Sampling()


@dataclass(frozen=True)
class Bundle:
    """Everything that is needed to turn text into more text."""

    path: Path
    manifest: Manifest
    engine: Engine
    tokenizer: Tokenizer
    warnings: tuple[str, ...]  # about this host, one line each
    chat: ChatTemplate | None = None  # the model's own

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens; for an empty text the end-of-text id: documents begin after it.

        Raises QuambaError for text that is not Unicode (a lone surrogate, as a broken command line gives).
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise QuambaError(
                "the prompt is not valid Unicode", found=str(error), allowed="UTF-8 text"
            ) from error
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids or [self.manifest.eos_token_id]

    def stream(self, prompts: Sequence[str], limits: Limits, sampling: Sampling = GREEDY) -> Iterator[Piece]:
        """Continue every prompt, as one batch; see `generate.stream`."""
        ids = [self.encode(prompt) for prompt in prompts]
        return stream(HostDecoder(self.engine, sampling), self.tokenizer, ids, limits)

    def generate(
        self, prompts: Sequence[str], limits: Limits, sampling: Sampling = GREEDY
    ) -> list[Generation]:
        """`stream` to its end."""
        ids = [self.encode(prompt) for prompt in prompts]
        return generate(HostDecoder(self.engine, sampling), self.tokenizer, ids, limits)


def open_bundle(
    path: Path | str,
    *,
    threads: int = 0,
    provider: Provider | None = None,
    require_signature: Path | None = None,
) -> Bundle:
    """Open a bundle/ or export/ directory.

    threads: of ONNX Runtime on the CPU, 0 for one a physical core; provider: ONNX Runtime's, None for the
    CPU's, and for a TensorRT bundle, which has none; require_signature: see open_folder. Raises QuambaError:
    exit 2 for a provider that the bundle has no use for, 3 for a directory that is neither or lacks a
    tokenizer, 4 where a file is not the one that the manifest names, 5 for one that this machine cannot run.
    """
    path = Path(path)
    with open_folder(path, require_signature) as (manifest, files):
        engine = open_engine(manifest, files.location, threads=threads, provider=provider)
        tokenizer = open_tokenizer(files.location, manifest)
        chat = read_chat_template(files.location, manifest)
        files.check_unchanged()
    warning = probe_int8_products().warning if manifest.backend == "onnxruntime" else None
    return Bundle(path, manifest, engine, tokenizer, (warning,) if warning else (), chat)


def open_model(path: Path, *, threads: int = 0, provider: Provider | None = None) -> tuple[Manifest, Engine]:
    """The engine that the manifest names, the directory verified before; see open_bundle."""
    with open_folder(path) as (manifest, files):
        engine = open_engine(manifest, files.location, threads=threads, provider=provider)
        files.check_unchanged()
    return manifest, engine


def open_engine(
    manifest: Manifest, locate: Locate, *, threads: int = 0, provider: Provider | None = None
) -> Engine:
    """The engine that the manifest of a verified directory names; see open_bundle."""
    if manifest.backend == "tensorrt":
        if provider is not None:
            raise QuambaError(
                "TensorRT engines do not run in ONNX Runtime, so there is no provider to choose",
                found=f"--provider {provider} for a bundle with TensorRT engines",
                allowed="an export/, or a bundle/ made with `build --target cpu`",
                code=ExitCode.USAGE,
            )
        from quamba_export.runtime import engine_tensorrt

        return engine_tensorrt.open_engine(locate, manifest)
    model, states, vocab_size = locate("model.onnx"), manifest.states, manifest.vocab_size
    return OrtEngine(model, states, vocab_size, threads=threads, provider=provider or "cpu")


def open_tokenizer(locate: Locate, manifest: Manifest) -> Tokenizer:
    """The tokenizer of a verified directory. Raises QuambaError if it is missing or another model's."""
    from tokenizers import Tokenizer

    name = "tokenizer.json"
    if name not in manifest.files:
        fix = "export a checkpoint directory that holds tokenizer.json"
        raise QuambaError(
            "this model has no tokenizer, so no text can be given to it", found=f"no {name}", fix=fix
        )
    file = locate(name)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise QuambaError(
            f"{shown(file)} is no tokenizer", found=str(error), allowed="tokenizers' JSON"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= manifest.vocab_size:
        raise QuambaError(
            f"{shown(file)} belongs to another model",
            found=f"token id {largest}",
            allowed=f"0 to {manifest.vocab_size - 1}",
        )
    return tokenizer
