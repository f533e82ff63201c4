import dataclasses
import hashlib
import json
import math

import pytest
import safetensors.torch
import torch
from random_calibrations import random_calibration
from random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS

from quamba_export.calib.calibration import read_calibration, write_calibration
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.runtime.errors import ExitCode, QuambaError

LIMITED = dataclasses.replace(MAMBA2, time_step_limit=(0.01, 0.5))


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2, MAMBA2_GROUPS, LIMITED])
def test_what_is_written_is_read(tmp_path, config):
    calibration = random_calibration(config)
    write_calibration(calibration, tmp_path / "calibration")
    read = read_calibration(tmp_path / "calibration")
    assert (read.config, read.recipe, read.digest) == (config, calibration.recipe, calibration.digest)
    assert read.scales.keys() == calibration.scales.keys()
    assert all(torch.equal(read.scales[site], calibration.scales[site]) for site in read.scales)
    for layer, permutation in calibration.permutation.items():
        assert torch.equal(read.permutation[layer].flat(), permutation.flat())
        assert torch.equal(read.ranges(layer).head_ends, calibration.ranges(layer).head_ends)
        assert torch.equal(read.ranges(layer).channel_ends, calibration.ranges(layer).channel_ends)
    assert (read.ranges(0) is None) == (config.kind == "mamba1")


def test_group_shapes_follow_the_recipe():
    grouped, plain = random_calibration(MAMBA2_GROUPS), random_calibration(MAMBA2, load_recipe("quamba"))
    assert grouped.scales["layers.0.x"].shape == (2, 4, 4)
    assert grouped.scales["layers.1.ssm_state"].shape == (2, 4, 4, MAMBA2_GROUPS.d_state)
    assert grouped.scales["layers.0.B"].shape == (2,)
    assert all(scale.shape == () for scale in plain.scales.values())


def test_groups_shrink_where_there_are_too_few_heads(tmp_path):
    config = dataclasses.replace(MAMBA2, n_groups=4)  # 4 heads: one in a group
    calibration = random_calibration(config)
    assert calibration.scales["layers.0.x"].shape == (4, 1, 4)
    write_calibration(calibration, tmp_path / "c")
    assert read_calibration(tmp_path / "c").head_group_range[0].tolist() == [[1]] * 4


def test_the_same_calibration_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_calibration(random_calibration(MAMBA2), tmp_path / name)
    for file in ("scales.safetensors", "calibration.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    content = (tmp_path / "a" / "calibration.json").read_bytes()
    assert random_calibration(MAMBA2).digest == hashlib.sha256(content).hexdigest()


def test_an_older_calibration_is_replaced_and_nothing_else_is(tmp_path):
    target = tmp_path / "calibration"
    write_calibration(random_calibration(MAMBA1), target)
    write_calibration(random_calibration(MAMBA2), target)
    assert read_calibration(target).config == MAMBA2
    assert list(tmp_path.iterdir()) == [target]
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"")
    with pytest.raises(QuambaError, match="is in the way"):
        write_calibration(random_calibration(MAMBA1), other)
    assert [path.name for path in other.iterdir()] == ["cat.jpg"]


def test_scales_that_could_not_be_read_are_not_written(tmp_path):
    calibration = random_calibration(MAMBA1)
    calibration.scales["layers.0.x"] = torch.tensor(0.0)
    with pytest.raises(QuambaError, match="finite and > 0"):
        write_calibration(calibration, tmp_path / "c")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def written(tmp_path):
    """A calibration on disk and a function that changes its description, its tensors, or both."""
    directory = tmp_path / "calibration"
    write_calibration(random_calibration(MAMBA2_GROUPS), directory)

    def change(description=None, tensors=None):
        scales, text = directory / "scales.safetensors", directory / "calibration.json"
        table = json.loads(text.read_text())
        if tensors is not None:
            stored = safetensors.torch.load_file(scales)
            tensors(stored)
            scales.write_bytes(safetensors.torch.save(stored))
            content = scales.read_bytes()
            table["files"][scales.name] = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
            }
        if description is not None:
            description(table)
        text.write_text(json.dumps(table))
        return directory

    return change


def put(key, value, *where):
    def change(table):
        for name in where:
            table = table[name]
        table[key] = value

    return change


def drop(key, *where):
    def change(table):
        for name in where:
            table = table[name]
        del table[key]

    return change


BAD_DESCRIPTIONS = [
    (put("schema_version", 0), "make it anew with `quamba-export calibrate`"),
    (put("schema_version", 2), "found: 2"),
    (put("kind", "export"), "is no calibration"),
    (put("extra", 1), "unknown key"),
    (drop("recipe"), "'recipe' is missing"),
    (put("statistics", []), "'statistics' is missing or no dict"),
    (put("checkpoint_digest", "AB"), "'checkpoint_digest' is no sha256"),
    (put("files", {}), "'files' does not describe scales.safetensors"),
    (put("files", {"../../etc/passwd": {"sha256": "", "size": 0}}), "'files' does not describe"),
    (put("size", 1.5, "files", "scales.safetensors"), "'files' does not describe"),
    (
        put("sha256", "0" * 64, "files", "scales.safetensors"),
        "is not the file that calibration.json describes",
    ),
    (put("layer", {}, "statistics"), "unknown site of 'statistics'"),
    (put("layers.0.x", {}, "statistics"), "'statistics' has no table 'layers.0.norm_out'"),
    (put("name", 3, "recipe"), "recipe field name"),
    (drop("name", "recipe"), "a recipe has no name"),
    (put("kind", ["absmax"], "recipe", "observers", "default"), "unknown observer kind"),
    (put("kind", "mee", "recipe", "observers", "default"), "did you mean mse"),
    (put("head_groups", 2, "recipe"), "'layers.0.x' has a wrong shape"),
    (drop("d_model", "config"), "'config.d_model' is missing"),
    (put("d_modell", 3, "config"), "did you mean d_model"),
    (put("kind", "mamba3", "config"), "'config.kind' is not usable"),
    (put("kind", "mamba1", "config"), "unknown site|needs heads|'config.dt_rank'"),
    (put("n_layer", 10**12, "config"), "'config.n_layer' is not usable"),
    (put("n_layer", True, "config"), "'config.n_layer' is not usable"),
    (put("n_layer", 3, "config"), "has no tensor 'layers.2.norm_out'"),
    (put("n_layer", 1, "config"), "unknown tensor"),
    (put("headdim", 0, "config"), "'config.headdim' is not usable"),
    (put("headdim", 7, "config"), "d_inner in whole heads"),
    (put("n_groups", 3, "config"), "n_heads in whole groups"),
    (put("time_step_limit", [1, 0], "config"), "'config.time_step_limit' is not usable"),
    (put("tie_embeddings", 1, "config"), "'config.tie_embeddings' is not usable"),
]


@pytest.mark.parametrize(("change", "message"), BAD_DESCRIPTIONS)
def test_a_bad_description_is_refused(written, change, message):
    with pytest.raises(QuambaError, match=message):
        read_calibration(written(description=change))


BAD_TENSORS = [
    (drop("layers.0.z"), "has no tensor 'layers.0.z'"),
    (put("layers.0.zz", torch.tensor(1.0)), "unknown tensor"),
    (put("layers.0.z", torch.tensor(0.0)), "'layers.0.z' has impossible values"),
    (put("layers.0.z", torch.tensor(-1.0)), "finite and > 0"),
    (put("layers.0.z", torch.tensor(1e-41)), "at least 2"),
    (put("layers.0.z", torch.tensor(math.nan)), "1 values that are not finite"),
    (put("layers.0.z", torch.tensor(math.inf)), "not finite"),
    (put("layers.0.z", torch.tensor(1.0, dtype=torch.float64)), "wrong shape or dtype"),
    (put("layers.0.z", torch.ones(1)), r"allowed: \(\) torch.float32"),
    (put("layers.0.x", torch.ones(2, 4)), "'layers.0.x' has a wrong shape"),
    (put("layers.1.head_group_range", torch.tensor([[1, 2, 3, 4]] * 2)), "wrong shape or dtype"),
    (put("layers.1.head_group_range", torch.tensor([[1, 1, 3, 4]] * 2, dtype=torch.int32)), "rising ends"),
    (put("layers.1.head_group_range", torch.tensor([[1, 2, 3, 5]] * 2, dtype=torch.int32)), "the last one 4"),
    (put("layers.1.dim_group_range", torch.zeros(2, 4, 4, dtype=torch.int32)), "the last one 16"),
    (put("layers.1.permutation.heads", torch.arange(8).flip(0)), "inside their groups of 4"),
    (put("layers.1.permutation.heads", torch.zeros(8, dtype=torch.int64)), "a permutation of 8 heads"),
    (put("layers.1.permutation.channels", torch.zeros(8, 16, dtype=torch.int64)), "of 16 channels"),
]


@pytest.mark.parametrize(("change", "message"), BAD_TENSORS)
def test_bad_tensors_are_refused(written, change, message):
    with pytest.raises(QuambaError, match=message):
        read_calibration(written(tensors=change))


def test_a_changed_file_is_an_integrity_error(written):
    directory = written()
    content = bytearray((directory / "scales.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "scales.safetensors").write_bytes(content)
    with pytest.raises(QuambaError, match="is not the file") as caught:
        read_calibration(directory)
    assert caught.value.code == ExitCode.INTEGRITY


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("calibration.json", None, "is missing"),
        ("scales.safetensors", None, "is missing"),
        ("calibration.json", b"{", "is not JSON"),
        ("calibration.json", b"[" * 100_000, "is not JSON"),
        ("calibration.json", b"\xff", "is not JSON"),
        ("calibration.json", b"[]", "is no calibration"),
        ("calibration.json", b'{"run": NaN}', "NaN is no JSON number"),
    ],
)
def test_missing_and_garbled_files_are_refused(written, name, content, message):
    path = written() / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(QuambaError, match=message):
        read_calibration(path.parent)


@pytest.mark.parametrize("header", [b"\xff" * 8 + b"{}", b"\x10" + b"\0" * 7 + b"not json at all!", b""])
def test_a_hostile_safetensors_header_is_refused(written, header):
    directory = written()
    (directory / "scales.safetensors").write_bytes(header)
    entry = {"sha256": hashlib.sha256(header).hexdigest(), "size": len(header)}
    with pytest.raises(QuambaError, match="is not a safetensors file"):
        read_calibration(written(description=put("scales.safetensors", entry, "files")))
    assert directory.is_dir()


def test_an_absurdly_large_file_is_not_read(written):
    path = written() / "calibration.json"
    with path.open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(QuambaError, match="is too large"):
        read_calibration(path.parent)
