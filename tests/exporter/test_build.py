"""`build`: a CPU bundle of an export, and what it refuses."""

from pathlib import Path

import pytest
from fake_export import FILES, write_fake_export

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.qformat import BLOCKS
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.exporter.bundle.build import WITH_KERNELS, build_bundle
from quamba_export.exporter.graph.onnx_export import onnx_from_model
from quamba_export.plugins.common.registry import kernel_names
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import Manifest, read_manifest
from tests.exported_graph import calibrated
from tests.random_checkpoints import MAMBA1, MAMBA2

pytestmark = pytest.mark.usefixtures("no_self_test")


@pytest.fixture
def no_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exports here hold no model that could run."""
    monkeypatch.setattr("quamba_export.exporter.bundle.build.cpu_self_test", lambda folder, source: None)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_fake_export(tmp_path / "export")


def test_a_cpu_bundle_is_read_back_by_the_runtime(export: Path, tmp_path: Path) -> None:
    result = build_bundle(export, "cpu", tmp_path / "bundle")
    manifest = read_manifest(tmp_path / "bundle")
    assert (manifest.kind, manifest.target, manifest.backend) == ("bundle", "cpu", "onnxruntime")
    assert manifest.sources["checkpoint"] == "a" * 64
    assert set(manifest.files) == set(FILES)
    assert result.size == sum(map(len, FILES.values()))


def test_building_again_replaces_the_bundle_with_the_same_bytes(export: Path, tmp_path: Path) -> None:
    build_bundle(export, "cpu", tmp_path / "bundle")
    first = (tmp_path / "bundle" / "manifest.json").read_bytes()
    build_bundle(export, "cpu", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "export"]


def test_a_changed_export_is_refused_and_nothing_is_left_behind(export: Path, tmp_path: Path) -> None:
    (export / "model.onnx").write_bytes(b"grapf")
    with pytest.raises(QuambaError, match=r"model\.onnx") as caught:
        build_bundle(export, "cpu", tmp_path / "bundle")
    assert caught.value.code is ExitCode.INTEGRITY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]


def test_an_export_that_changes_meanwhile_gives_no_bundle(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another graph behind the copy, the old one back before the end: an engine would be of the other."""

    def exchanging(folder: Path, source: Manifest) -> None:
        (export / "model.onnx").rename(tmp_path / "aside")
        (export / "model.onnx").write_bytes(b"other")
        (tmp_path / "aside").replace(export / "model.onnx")

    monkeypatch.setattr("quamba_export.exporter.bundle.build.cpu_self_test", exchanging)
    with pytest.raises(QuambaError, match=r"model\.onnx has changed") as caught:
        build_bundle(export, "cpu", tmp_path / "bundle")
    assert caught.value.code is ExitCode.INTEGRITY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]


@pytest.mark.parametrize("target", ["thor", "h300"])
def test_a_target_of_a_later_release_is_refused_before_anything_is_read(tmp_path: Path, target: str) -> None:
    with pytest.raises(QuambaError, match=f"no target is called '{target}'") as caught:
        build_bundle(tmp_path / "nowhere", target, tmp_path / "bundle")
    assert caught.value.code is ExitCode.INCOMPATIBLE
    assert "cpu" in str(caught.value)


def test_what_is_no_export_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "calibration.json").write_text("{}")
    with pytest.raises(QuambaError, match="not an export/") as caught:
        build_bundle(tmp_path / "calibration", "cpu", tmp_path / "bundle")
    assert caught.value.found == "a calibration"


def test_a_folder_with_other_things_in_it_is_not_overwritten(export: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(QuambaError, match="in the way") as caught:
        build_bundle(export, "cpu", tmp_path / "photos")
    assert caught.value.code is ExitCode.USAGE
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"meow"


@pytest.mark.parametrize("qformat", ["fp16", "w8a8-embedding8", "w4a8-head4"])
@pytest.mark.parametrize("target", ["h200", "orin"])
def test_widths_without_kernels_are_refused_for_a_gpu(tmp_path: Path, target: str, qformat: str) -> None:
    export = write_fake_export(tmp_path / "export", qformat=qformat)
    with pytest.raises(QuambaError, match=f"does not run {qformat}") as caught:
        build_bundle(export, target, tmp_path / "bundle")
    assert (caught.value.allowed, caught.value.code) == (
        "w8a8, w4a8, w4a16, w8a16",
        ExitCode.INCOMPATIBLE,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]
    build_bundle(export, "cpu", tmp_path / "bundle")


def test_a_study_of_the_scan_input_is_refused_for_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = b'{"quantization_config": {"ssm_input": "dual-scale"}}'
    monkeypatch.setitem(FILES, "config.json", config)
    export = write_fake_export(tmp_path / "export")
    with pytest.raises(QuambaError, match="does not run studies") as caught:
        build_bundle(export, "h200", tmp_path / "bundle")
    assert caught.value.found == "an export made with --ssm-input dual-scale"


def test_a_smoothed_model_is_refused_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "config.json", b'{"quantization_config": {"smoothed": true}}')
    export = write_fake_export(tmp_path / "export")
    with pytest.raises(QuambaError, match="does not run smoothed models") as caught:
        build_bundle(export, "h200", tmp_path / "bundle")
    assert caught.value.code == ExitCode.INCOMPATIBLE


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2], ids=lambda config: config.kind)
@pytest.mark.parametrize("qformat", [*BLOCKS, "w8a8-head8", "w8a8-head4"])
def test_every_op_of_a_width_with_kernels_has_one(config: MambaConfig, qformat: str) -> None:
    checkpoint, calibration = calibrated(config)
    model = quantize_model(checkpoint, calibration if qformat.startswith("w") else None, qformat)
    ops = {function.name for function in onnx_from_model(model).functions}
    assert (ops <= set(kernel_names())) == (qformat in WITH_KERNELS)
