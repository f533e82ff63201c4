"""The self-test: the tokens of the build come out again; a bundle with others does not pass."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusals import refused
from tiny_recurrent import NumpyEngine, V, write_tiny_export

from quamba_export.exporter.bundle.build import build_bundle
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import read_manifest, write_manifest
from quamba_export.runtime.self_test import run_self_test, self_test_of


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    build_bundle(write_tiny_export(tmp_path / "export"), "cpu", tmp_path / "bundle")
    return tmp_path / "bundle"


def with_tokens(bundle: Path, *tokens: int) -> None:
    manifest = read_manifest(bundle)
    assert manifest.self_test is not None
    write_manifest(replace(manifest, self_test=replace(manifest.self_test, tokens=tokens)), bundle)


def test_a_bundle_gives_the_tokens_of_its_build(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    result = run_self_test(bundle)
    assert (result.digest, result.same_bits) == (manifest.digest, True)
    assert result.peak_bytes > 10 << 20
    assert manifest.self_test is not None
    assert (len(manifest.self_test.prompt), len(manifest.self_test.tokens)) == (16, 16)


def test_two_engines_agree(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    ort = self_test_of(OrtEngine(bundle / "model.onnx", manifest.states, V))
    assert self_test_of(NumpyEngine()).tokens == ort.tokens


def test_other_tokens_are_refused(bundle: Path) -> None:
    with_tokens(bundle, 1, 2, 3)
    with refused("computes something else here", "tokens 1, 2, 3", code=ExitCode.NUMERIC):
        run_self_test(bundle)


def test_logits_that_are_no_numbers_are_refused() -> None:
    class Broken(NumpyEngine):
        def run(self, *arguments, **options):  # type: ignore[no-untyped-def]
            logits, states = super().run(*arguments, **options)
            return logits + np.float32(np.nan), states

    with refused("not finite", code=ExitCode.NUMERIC):
        self_test_of(Broken())


def test_an_export_has_none(tmp_path: Path) -> None:
    with refused("has no self-test", "quamba-export build"):
        run_self_test(write_tiny_export(tmp_path / "export"))


@pytest.mark.parametrize("tokens", [(V,), (-1,), ()])
def test_tokens_outside_the_vocabulary_are_no_manifest(bundle: Path, tokens: tuple[int, ...]) -> None:
    with refused("'tokens' is not allowed"):
        with_tokens(bundle, *tokens)


def test_the_program_prints_one_object_and_exits_with_the_code(bundle: Path) -> None:
    with_tokens(bundle, 1, 2, 3)
    command = [sys.executable, "-m", "quamba_export.runtime.self_test", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.NUMERIC, done.stderr
    assert json.loads(done.stdout)["code"] == ExitCode.NUMERIC
