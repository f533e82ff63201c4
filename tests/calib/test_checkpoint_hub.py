"""Hub ids: what is downloaded and what a user reads when that fails. The download itself is replaced."""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from random_checkpoints import MAMBA1, random_checkpoint, write_hugging_face, write_mamba_ssm
from refusals import refused

from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.checkpoints.hub import is_hub_id
from quamba_export.runtime.errors import ExitCode, install_command


@pytest.mark.parametrize("source", ["state-spaces/mamba-130m", "a/b", "mistralai/Mamba-Codestral-7B-v0.1"])
def test_hub_ids(source: str) -> None:
    assert is_hub_id(source)


@pytest.mark.parametrize(
    "source", ["mamba", "./mamba/x", "/a/b", "a/b/c", "../b", "a/..", "a/", "a b/c", "~/m"]
)
def test_what_is_no_hub_id(source: str) -> None:
    assert not is_hub_id(source)


class FakeHub:
    """snapshot_download over a local directory, as strict with patterns as the real one."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache, self.calls = repository, cache, 0
        cache.mkdir()

    def __call__(self, repo_id: str, *, allow_patterns: list[str]) -> str:
        assert repo_id == "owner/name"
        self.calls += 1
        for file in self.repository.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                (self.cache / file.name).write_bytes(file.read_bytes())
        return str(self.cache)


@pytest.mark.parametrize("write", [write_mamba_ssm, write_hugging_face])
def test_download(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = random_checkpoint(MAMBA1)
    repository = write(tmp_path / "repository", MAMBA1, wanted.tensors)
    for other in ("consolidated.safetensors", "README.md", "training_args.bin", "model.onnx"):
        (repository / other).write_text("not asked for")
    hub = FakeHub(repository, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    found = load_checkpoint("owner/name")
    assert (found.path, found.digest) == (tmp_path / "cache", wanted.digest)
    weights = "model.safetensors" if write is write_hugging_face else "pytorch_model.bin"
    assert sorted(path.name for path in found.path.iterdir()) == ["config.json", weights]


def test_pickles_are_left_where_there_are_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = random_checkpoint(MAMBA1).tensors
    repository = write_mamba_ssm(tmp_path / "repository", MAMBA1, tensors)
    write_hugging_face(repository, MAMBA1, tensors)
    hub = FakeHub(repository, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    load_checkpoint("owner/name")
    assert hub.calls == 1
    assert not (tmp_path / "cache" / "pytorch_model.bin").exists()


def test_a_directory_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = random_checkpoint(MAMBA1)
    write_mamba_ssm(tmp_path / "owner" / "name", MAMBA1, wanted.tensors)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert load_checkpoint("owner/name").digest == wanted.digest


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("no network\nand more"), ConnectionError("no network")]
)
def test_an_unreachable_hub(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with refused("the hub gave no checkpoint owner/name", "found: no network", code=ExitCode.REMOTE):
        load_checkpoint("owner/name")


@pytest.mark.parametrize("installed", [True, False])
def test_a_mistyped_directory_that_looks_like_a_hub_id(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mamba-kjv").mkdir(parents=True)
    (tmp_path / "models" / "mamba-k").touch()  # nearer, but no directory
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    if not installed:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code = ExitCode.REMOTE if installed else ExitCode.INVALID_INPUT
    with refused("no directory models/mamba-kj,", "fix: did you mean models/mamba-kjv?", code=code):
        load_checkpoint("models/mamba-kj")


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refused("huggingface_hub is not installed", install_command("hub")):
        load_checkpoint("owner/name")
