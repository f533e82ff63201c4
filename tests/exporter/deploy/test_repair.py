"""A release that was damaged on the device: the same command finds it out and puts it right."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from deploying import deployed, killed_at, options, plan, wait_until_free
from refusals import refused
from ssh_device import CutProxy, SshDevice

from quamba_export.exporter.deploy.actions import deploy_to, roll_back, status_of
from quamba_export.exporter.deploy.device import agent, store
from quamba_export.exporter.deploy.device.contents import fault_of, file_digest, tree_digest
from quamba_export.exporter.deploy.ssh import Session
from quamba_export.runtime.errors import ExitCode

Bundles = tuple[Path, Path, Path]
pytestmark = pytest.mark.xdist_group("device")
MENDS = "deploy its bundle again: that repairs it"
SOURCE = "site/quamba_export/runtime/bundle.py"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit of the content, and nothing that `ls` shows."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def add(path: Path) -> None:
    path.with_name("extra.py").write_text("1 / 0\n")


def link(path: Path) -> None:
    path.rename(path.parents[1] / "elsewhere")
    path.symlink_to(path.parents[1] / "elsewhere")


def folder(path: Path) -> None:
    path.unlink()
    (path / "in/it").mkdir(parents=True)


def spoil_bytecode(path: Path) -> None:
    """Such that Python takes it for the source's."""
    cut(next((path.parent / "__pycache__").glob("bundle.*.pyc")))


def unlock(path: Path) -> None:
    """Everybody may write to it."""
    path.chmod(path.stat().st_mode | 0o022)


def disarm(path: Path) -> None:
    """Nobody can run it."""
    path.chmod(0o644)


DAMAGES: list[tuple[str, Callable[[Path], None]]] = [  # of the manifest's files first
    ("bundle/model.onnx.data", cut),
    ("bundle/model.onnx.data", flip),
    ("bundle/model.onnx", Path.unlink),
    ("bundle/tokenizer.json", add),
    ("bundle/tokenizer.json", link),
    ("bundle/manifest.json", flip),
    ("bundle/config.json", folder),
    (SOURCE, flip),
    (SOURCE, Path.unlink),
    (SOURCE, add),
    ("bin/quamba-export", cut),
    ("bin/quamba-export", disarm),
    ("bundle/model.onnx", unlock),
    ("bundle", unlock),
    (SOURCE, unlock),
    ("release.json", cut),
    ("release.json", Path.unlink),
    ("bundle", shutil.rmtree),
]


def spoil(release: Path) -> None:
    """Much of it at once."""
    for name, damage in [*DAMAGES[1:3], (SOURCE, flip), (SOURCE, add), ("bin/quamba-export", cut)]:
        damage(release / name)


def content(release: Path) -> tuple[list[str], set[str]]:
    """All but the record, which says when; and what there is."""
    return [tree_digest(release / name) for name in ("bundle", "site", "bin")], set(os.listdir(release))


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_every_damage_is_found(
    running: SshDevice, bundles: Bundles, name: str, damage: Callable[[Path], None]
) -> None:
    release, made = running.store / "releases" / str(running.current), plan(bundles[0])
    site = tree_digest(release / "site")
    files = {**made.small_files(), "bin/quamba-export": file_digest(release / "bin/quamba-export")}
    assert fault_of(release, made.wanted(), site, files) is None
    damage(release / name)
    found = fault_of(release, made.wanted(), site, files)
    assert str(found).startswith((name.split("/")[0], "[Errno")), found


def test_a_current_release_is_repaired_and_only_what_is_damaged_is_sent(
    running: SshDevice, bundles: Bundles
) -> None:
    release, name = running.store / "releases" / str(running.current), str(running.current)
    before = content(release)
    spoil(release)
    with CutProxy(running.port) as proxy:
        running.config.write_text(running.config.read_text() + running.entry("counted", proxy.port, "known"))
        made = deployed(running, bundles[0], "counted")
        sent = proxy.passed
    assert (made.state, made.current, running.current, made.same_bits) == ("repaired", name, name, True)
    assert made.damaged == "bin/quamba-export is not what was installed"
    assert content(release) == before
    assert sent < 150_000 < sum(path.stat().st_size for path in release.rglob("*.*"))
    assert list((running.store / "incoming").iterdir()) == []
    assert (running.store / "history").read_text().split() == [name]
    spoil_bytecode(release / SOURCE)
    assert deployed(running, bundles[0]).state == "unchanged"
    assert not list((release / "site").rglob("__pycache__"))


def test_a_repair_that_is_cut_off_leaves_what_was_there_and_goes_on(
    running: SshDevice, bundles: Bundles
) -> None:
    release = running.store / "releases" / str(running.current)
    before = content(release)
    spoil(release)
    damaged = content(release)
    for step in ("repair", "copy bundle", "self-test"):
        with Session("known", options(running)) as session, refused(code=ExitCode.INCOMPLETE):
            deploy_to(plan(bundles[0]), session, partial(killed_at, step, session))
        wait_until_free(running)
        assert (content(release), running.current) == (damaged, release.name)
    assert deployed(running, bundles[0]).state == "repaired"
    assert content(release) == before


def test_damage_is_not_shared_with_the_next_release_and_not_gone_back_to(
    running: SshDevice, bundles: Bundles
) -> None:
    """Packages are further names of the current release's files; a flipped bit shows in no size or time."""
    old = running.store / "releases" / str(running.current)
    flip(old / SOURCE)
    flip(old / "bundle/model.onnx.data")
    new = deployed(running, bundles[1])
    assert (running.store / "current" / SOURCE).read_bytes() != (old / SOURCE).read_bytes()
    with Session("known", options(running)) as session, refused(MENDS, code=ExitCode.INTEGRITY):
        roll_back(session, lambda step: None)
    cut(old / "release.json")
    with Session("known", options(running)) as session:
        status = status_of(session, lambda step: None)
        assert ["damaged" in record for record in status.releases] == [True, False]
    assert running.current == new.current
    back = deployed(running, bundles[0])
    assert (back.state, back.before, running.current) == ("repaired", new.current, old.name)
    shutil.rmtree(old)  # and `current` leads nowhere
    assert (deployed(running, bundles[0]).state, content(old)[1]) == ("deployed", set(os.listdir(old)))


def test_what_the_device_built_is_built_again(device: SshDevice, bundles: Bundles) -> None:
    export = bundles[0].with_name("export-float32")
    release = device.store / "releases" / str(deployed(device, export, target="cpu").current)
    deployed(device, bundles[1])
    cut(release / "bundle/manifest.json")  # so that nothing says what the folder is
    (release / "target.toml").touch()
    assert deployed(device, export, target="cpu").state == "repaired"
    assert deployed(device, export, target="cpu").state == "unchanged"


def test_two_folders_change_places_on_any_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    store.exchange(one, other)
    assert (os.listdir(one), os.listdir(other)) == (["other"], ["one"])
    monkeypatch.setattr(store.ctypes, "CDLL", lambda *words, **more: object())
    store.exchange(one, other)
    assert (os.listdir(one), os.listdir(other), len(os.listdir(tmp_path))) == (["one"], ["other"], 2)


def test_what_a_power_cut_left_of_the_history_is_no_obstacle(running: SshDevice, bundles: Bundles) -> None:
    first = str(running.current)
    (running.store / "history").write_bytes(b"\0\0\xff ../../etc\n")
    (running.store / "releases/lost+found").mkdir()
    second = deployed(running, bundles[1], keep=2)
    assert second.before == first
    assert (running.store / "history").read_text().split() == [first, second.current]
    with Session("known", options(running)) as session:
        assert [record["id"] for record in status_of(session, lambda step: None).releases] == [
            first,
            second.current,
        ]
        assert roll_back(session, lambda step: None).current == first
    assert (running.store / "releases/lost+found").is_dir()


def test_a_file_in_a_release_s_place_goes_and_a_folder_in_current_s_is_named(
    running: SshDevice, bundles: Bundles
) -> None:
    release = running.store / "releases" / str(running.current)
    shutil.rmtree(release)
    release.touch()
    assert deployed(running, bundles[0]).state == "deployed"
    (running.store / "current").unlink()
    shutil.copytree(release, running.store / "current")  # a backup that followed links
    with refused("current on the device is in the way", "move it away", code=ExitCode.REMOTE):
        deployed(running, bundles[0])


def test_a_bug_on_the_device_is_no_lost_connection(tmp_path: Path) -> None:
    error = agent.answer(agent.Agent(tmp_path), b'{"call": "status", "arguments": {"of": 1}}')["error"]
    assert (error["code"], "TypeError" in error["message"]) == (ExitCode.BUG, True)
