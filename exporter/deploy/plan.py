"""What is deployed: a bundle as it is, or an export/ of which the device builds its own bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from quamba_export.exporter.deploy.packages import Packages
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.folder_check import SIGNATURE
from quamba_export.runtime.manifest import Manifest, read_manifest
from quamba_export.targets.target import custom_target, custom_text, load_target
from quamba_export.targets.target_file import Target

MISSING = "missing"  # in place of a digest, where there is no such file


@dataclass(frozen=True)
class Choices:
    """What a user may choose of a deployment."""

    packages: Packages = "ship"
    wheels: Path | None = None
    keep: int = 3  # releases, the current one among them
    port: int | None = None  # of the systemd unit that is to be installed
    target: str | None = None  # that an export/ is built for on the device: a name, or a TOML file's path
    signer: Path | None = None  # PEM of the public key that must have signed the source


@dataclass(frozen=True)
class Plan:
    """One deployment, the same for every host."""

    source: Path
    manifest: Manifest
    choices: Choices
    target: Target | None  # that the device builds for; None of a bundle
    expected: str  # self-test of an export/, as JSON; "" of a bundle, whose manifest has its own
    target_file: str = ""  # text of a target's own TOML file, which the device has not; "" of a known one
    signer: str = ""  # text of the signer's public key, by which the device verifies again; "": none asked

    @property
    def part(self) -> str:
        """The folder of a staged release that the source goes to."""
        return "bundle" if self.target is None else "export"

    @property
    def backend(self) -> str:
        return self.target.backend if self.target else self.manifest.backend

    @property
    def signed(self) -> bool:
        """Whether the device needs what verifies signatures."""
        return bool(self.signer) or self.signature != MISSING

    @cached_property
    def signature(self) -> str:
        """sha256 of the source's model.sig, read once."""
        path = self.source / SIGNATURE
        return _sha256(path.read_bytes() if path.is_file() else b"")

    @property
    def verified_by_runtime(self) -> bool:
        """Whether every load on the device verifies the signature; what a device built nobody signed."""
        return bool(self.signer) and self.target is None

    def wanted(self) -> dict[str, str]:
        """What the self-test's result must say."""
        if self.target is None:
            return {"digest": self.manifest.digest}
        return {"export": self.manifest.export_digest}

    def small_files(self) -> dict[str, str]:
        """sha256 of what a release has beside what its manifest lists, MISSING for what it has not."""
        signer = self.signer if self.verified_by_runtime else ""
        return {
            "bundle/model.sig": self.signature if self.target is None else MISSING,
            "signer.pem": _sha256(signer.encode()),
            "target.toml": _sha256(self.target_file.encode()),
        }

    def release_id(self, site: Path) -> str:
        """The same source, signed by the same, with the same packages is the same release."""
        target = self.target.name if self.target else ""
        parts = (self.manifest.digest, self.signature, target, self.target_file, self.signer, site.name)
        return sha256("\0".join(parts).encode()).hexdigest()[:16]


def _sha256(content: bytes) -> str:
    """As the device says it of a file; of nothing that there is none."""
    return sha256(content).hexdigest() if content else MISSING


def plan_deployment(source: Path, choices: Choices) -> Plan:
    """Verify a bundle, or an export/ whose target is named and which is run here for its self-test.

    Raises QuambaError: exit 4 for a changed one or another's signature, 2 for a target that is missing or
    too many, 3 for a bundle without a self-test.
    """
    manifest = read_manifest(source, choices.signer)
    signer = choices.signer.read_text(encoding="utf-8") if choices.signer else ""
    if (manifest.kind == "export") != (choices.target is not None):
        raise QuambaError(
            f"{source} is {'an export' if manifest.kind == 'export' else 'a bundle'}",
            found=f"--target {choices.target}" if choices.target else "no --target",
            allowed="a bundle, built already, or an export/ with the --target to build it for on the device",
            fix="leave --target out"
            if choices.target
            else "name the target, or `quamba-export build` a bundle",
            code=ExitCode.USAGE,
        )
    if choices.target is None:
        if manifest.self_test is None:
            raise QuambaError(
                f"{source} cannot be deployed",
                found="a bundle without a self-test",
                allowed="a bundle that `quamba-export build` of this release made",
                fix="quamba-export build export/ --target ... -o bundle/",
            )
        return Plan(source, manifest, choices, None, "", signer=signer)
    from quamba_export.exporter.bundle.build import cpu_self_test

    own = choices.target.endswith(".toml")
    text = custom_text(Path(choices.target)) if own else ""
    target = custom_target(text, Path(choices.target)) if own else load_target(choices.target)
    if target.backend == "tensorrt":
        _check_buildable(source, manifest)
    expected = json.dumps(asdict(cpu_self_test(source, manifest)))
    return Plan(source, manifest, choices, target, expected, text, signer)


def _check_buildable(source: Path, manifest: Manifest) -> None:
    """Refuse (exit 5) an export/ of which engines are built with torch only: devices have none."""
    if manifest.portable is None:
        raise QuambaError(
            f"{source} cannot be built on a device",
            found="an export/ without engine graphs and plugin sources",
            allowed="what `quamba-export build --portable` makes of it",
            fix=f"quamba-export build {source} --portable -o portable/, then deploy that",
            code=ExitCode.INCOMPATIBLE,
        )
