"""What this machine has of what a use of quamba-export needs, and the command that installs the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quamba_export.exporter.doctor.checks import (
    PACKAGES,
    Check,
    Use,
    check_build_tools,
    check_int8_products,
    check_itself,
    check_package,
    check_python,
)
from quamba_export.exporter.doctor.gpu import (
    check_builder,
    check_gpu,
    check_plugins,
    check_tensorrt,
    library_of,
)
from quamba_export.exporter.doctor.run import check_kernel, check_model
from quamba_export.runtime.errors import ExitCode, QuambaError


@dataclass(frozen=True)
class Diagnosis:
    """The `--json` object of `doctor`."""

    use: Use
    ready: bool  # everything that the use needs is "ok"
    checks: tuple[Check, ...]

    @property
    def lacking(self) -> tuple[Check, ...]:
        """What the use needs and is not right."""
        return tuple(check for check in self.checks if self.use in check.needed_for and check.state != "ok")


def diagnose(use: Use, plugins: Path | None = None, bundle: Path | None = None) -> Diagnosis:
    """Every check, whatever the use: the use only decides which of them count.

    plugins, bundle: a library to load and to launch, or a bundle or export/ to run, and its library where it
    has one. Raises QuambaError for a path that is neither, before anything is checked.
    """
    library = library_of(plugins, bundle)
    checks = [check_python(), check_itself(), *map(check_package, PACKAGES), check_int8_products()]
    gpu = check_gpu()
    checks += [gpu, check_tensorrt(), check_builder()]
    if library:
        loaded = check_plugins(library)
        checks += [loaded, check_kernel(library, (gpu, loaded))]
    checks += [check_model(bundle, checks)] if bundle else []
    checks += check_build_tools()
    found = Diagnosis(use, ready=False, checks=tuple(checks))
    return Diagnosis(use, ready=not found.lacking, checks=found.checks)


def require_ready(diagnosis: Diagnosis) -> None:
    """Raise QuambaError (exit 5) where the use lacks something, with the first thing's fix."""
    if not diagnosis.lacking:
        return
    first = diagnosis.lacking[0]
    raise QuambaError(
        f"this machine is not ready for {diagnosis.use}",
        found=", ".join(f"{check.name} {check.state}" for check in diagnosis.lacking),
        allowed="ok for each of them",
        fix=f"begin with {first.name}: {first.fix}",
        code=ExitCode.INCOMPATIBLE,
    )
