"""A text and a tokenizer for calibrations of random models."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A directory with a tokenizer of 64 words and a text of them."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    words = np.random.default_rng(0).integers(1, 64, 400)
    (folder / "text.txt").write_text(" ".join(f"w{i}" for i in words))
    return folder
