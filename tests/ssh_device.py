"""An SSH server of the tests' own on this machine, whose account stands in for a device of target cpu."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from quamba_export.exporter.deploy.preflight import Device

GIB = 1 << 30
ORIN = Device(
    machine="aarch64",
    python="3.10.12",
    glibc="2.35",
    user="nvidia",
    rsync="/usr/bin/rsync",
    l4t="36.4.3",
    jetpack="6.2",
    tensorrt="10.3.0.30",
    cuda="12.6",
    sm=87,
    memory_bytes=8 * GIB,
    memory_free_bytes=6 * GIB,
    gpu_free_bytes=None,
    disk_free_bytes=20 * GIB,
    power_mode="15W",
)
SERVER = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/client_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
SetEnv HOME={folder}/home PATH={folder}/bin:{python}:/usr/bin:/bin
"""
CLIENT = """\
Host {name}
  HostName {address}
  Port {port}
  User {user}
  HostKeyAlias device
  IdentityFile {folder}/client_key
  UserKnownHostsFile {known}
  GlobalKnownHostsFile none
"""


@dataclass
class SshDevice:
    """A device: its files under home/, its programs first of all under bin/."""

    folder: Path
    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()  # before the server's command
    port: int = field(default_factory=lambda: free_port())

    @property
    def store(self) -> Path:
        return self.folder / "home/.local/share/quamba-export"

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def current(self) -> str | None:
        link = self.store / "current"
        return link.readlink().name if link.is_symlink() else None

    def start(self) -> subprocess.Popen[bytes]:
        """Keys, configuration, and the server in the foreground of a process."""
        for key in ("host_key", "client_key", "other_key"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)]
            subprocess.run(words, check=True)
        for name in ("home", "bin"):
            (self.folder / name).mkdir()
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.know("known", "host_key")
        self.know("changed", "other_key")
        (self.folder / "unknown").touch()
        python = Path(sys.executable).parent
        text = SERVER.format(folder=self.folder, port=self.port, address=self.address, python=python)
        (self.folder / "sshd_config").write_text(text)
        self.config.write_text("".join(self.entry(name) for name in ("known", "changed", "unknown")))
        server = [*self.prefix, sshd(), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        return subprocess.Popen(server, stderr=(self.folder / "log").open("wb"))

    def know(self, name: str, key: str) -> None:
        public = (self.folder / f"{key}.pub").read_text()
        (self.folder / name).write_text(f"device {public}")

    def entry(self, name: str, port: int | None = None, known: str | None = None) -> str:
        """A host of the client's configuration; by default the one that knows keys by the file `name`."""
        return CLIENT.format(
            name=name,
            address=self.address,
            port=port or self.port,
            user=getpass.getuser(),
            folder=self.folder,
            known=self.folder / (known or name),
        )

    def wait(self) -> None:
        """Until the server listens."""
        for _ in range(200):
            if "listening" in (self.folder / "log").read_text():
                return
            time.sleep(0.05)
        raise TimeoutError((self.folder / "log").read_text())

    def wipe(self) -> None:
        """A device that nothing was deployed to."""
        for name in ("home", "bin"):
            shutil.rmtree(self.folder / name)
            (self.folder / name).mkdir()


def sshd() -> str:
    """The server's path, or a skip."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    if (found := shutil.which("sshd", path=path)) is None:
        pytest.skip("no sshd to deploy to: apt-get install openssh-server")
    if shutil.which("rsync") is None:
        pytest.skip("no rsync to deploy with: apt-get install rsync")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class CutProxy:
    """A way to a server that ends after some bytes from the client; a context manager."""

    def __init__(self, port: int) -> None:
        self.server_port, self.left, self.passed = port, sys.maxsize, 0
        self.linger = 0.0  # seconds that the server has, after the last byte, before it sees the end
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]

    def __enter__(self) -> CutProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.server_port))
            for ends in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while block := source.recv(1 << 14):
                if counted:
                    block, self.left = block[: self.left], self.left - len(block)
                    self.passed += len(block)
                target.sendall(block)
                if self.left <= 0:
                    time.sleep(self.linger)
                    break
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
