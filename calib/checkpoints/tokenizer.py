"""tokenizer.json and the end-of-text id of a checkpoint directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from quamba_export.calib.json_fields import JsonFields
from quamba_export.runtime.errors import QuambaError

END_OF_TEXT = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
GPT_NEOX_END_OF_TEXT = 0  # mamba-ssm's published models use GPT-NeoX's tokenizer and do not ship it


@dataclass(frozen=True)
class StoredTokenizer:
    path: Path
    ids: dict[str, int]  # every token, added ones too


def read_tokenizer(directory: Path, vocab_size: int) -> StoredTokenizer | None:
    """The directory's tokenizer.json, None where it has none.

    Raises QuambaError where the file is no tokenizer or has ids that the embedding has no row for.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        ids = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # tokenizers raises plain Exception
        raise QuambaError(f"{path} is no tokenizer", found=str(error), fix="fetch the file again") from error
    largest = max(ids.values(), default=-1)
    if largest >= vocab_size:
        raise QuambaError(
            f"{path} is larger than the model's vocabulary",
            found=f"token ids up to {largest}",
            allowed=f"ids below {vocab_size}, the padded vocab_size in config.json",
            fix="use the tokenizer that the model was trained with",
        )
    return StoredTokenizer(path, ids)


def read_eos_token_id(directory: Path, vocab_size: int, tokenizer: StoredTokenizer | None) -> int:
    """The id that ends a text: from generation_config.json, config.json, or a token of tokenizer.json.

    Where a model names several the first counts. Raises QuambaError where none is named.
    """
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        fields = JsonFields.from_file(file) if file.is_file() else JsonFields(file, {})
        if fields.values.get("eos_token_id") is not None:
            return _first_id(fields, vocab_size)
    if tokenizer is None:
        return GPT_NEOX_END_OF_TEXT
    for token in END_OF_TEXT:
        if token in tokenizer.ids:
            return tokenizer.ids[token]
    raise QuambaError(
        f"{directory} does not say which token ends a text",
        found=f"no eos_token_id in its configs, none of {', '.join(END_OF_TEXT)} in tokenizer.json",
        fix='add "eos_token_id": ID to config.json',
    )


def _first_id(fields: JsonFields, vocab_size: int) -> int:
    value = fields.values["eos_token_id"]
    first = value[0] if isinstance(value, list) and value else value
    return JsonFields(fields.file, {"eos_token_id": first}).integer("eos_token_id", 0, vocab_size - 1)
