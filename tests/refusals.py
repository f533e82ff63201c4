"""One way to test a refusal: the error's text, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from quamba_export.runtime.errors import ExitCode, QuambaError


@contextmanager
def refused(*parts: str, code: ExitCode = ExitCode.INVALID_INPUT) -> Iterator[None]:
    """The block raises a QuambaError whose text has every part, and which exits with `code`."""
    with pytest.raises(QuambaError) as caught:
        yield
    assert caught.value.code == code
    for part in parts:
        assert part in str(caught.value)
