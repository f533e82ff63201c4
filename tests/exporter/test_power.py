"""Energy from a Jetson's rails, in a tree with the names and units that Linux gives them, and from NVML."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from quamba_export.exporter.speed import power
from quamba_export.exporter.speed.power import RailEnergy, driver_energy, find_energy, find_rails

NANO = {"VDD_IN": (5000, 1000), "VDD_CPU_GPU_CV": (5000, 400), "VDD_SOC": (5000, 300)}  # mV, mA
AGX = {"VDD_GPU_SOC": (19000, 200), "VDD_CPU_CV": (19000, 100), "VIN_SYS_5V0": (5000, 600)}


def write_chip(
    root: Path, rails: dict[str, tuple[int, int]], address: str = "1-0040", chip: str = "ina3221"
) -> Path:
    """As JetPack's kernels have it: three channels, and in4 to in7, which are no rails."""
    folder = root / "sys/bus/i2c/devices" / address / "hwmon/hwmon1"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{chip}\n")
    for channel, (name, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        (folder / f"in{channel}_label").write_text(f"{name}\n")
        (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")
        (folder / f"in{channel + 3}_input").write_text("12\n")  # shunt voltages
    (folder / "in7_label").write_text("sum of shunt voltages\n")
    (folder / "in7_input").write_text("36\n")
    return folder


def test_the_rail_of_the_whole_module_is_taken_alone(tmp_path: Path) -> None:
    write_chip(tmp_path, NANO)
    (rail,) = find_rails(tmp_path)
    assert (rail.name, rail.watts()) == ("VDD_IN", 5.0)


def test_the_rails_of_an_agx_are_summed(tmp_path: Path) -> None:
    write_chip(tmp_path, AGX)
    write_chip(tmp_path, {"VDDQ_VDD2_1V8AO": (5000, 100), "NC": (0, 0)}, "1-0041")
    rails = find_rails(tmp_path)
    assert [rail.name for rail in rails] == [*AGX, "VDDQ_VDD2_1V8AO"]
    assert sum(rail.watts() for rail in rails) == pytest.approx(3.8 + 1.9 + 3.0 + 0.5)


def test_other_chips_and_other_machines_have_no_rails(tmp_path: Path) -> None:
    assert find_rails(tmp_path) == []
    write_chip(tmp_path, NANO, chip="tmp451")
    assert find_rails(tmp_path) == []
    assert find_energy(gpu=False, root=tmp_path) is None


def test_power_is_summed_over_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clock = write_chip(tmp_path, NANO), [10.0]
    monkeypatch.setattr(power.time, "perf_counter", lambda: clock[0])
    energy = RailEnergy(find_rails(tmp_path), period=1000)
    assert (energy.source, energy.joules()) == ("rails VDD_IN", 0.0)
    clock[0] += 2
    assert energy.joules() == pytest.approx(10.0)  # 5 W for 2 s
    (folder / "curr1_input").write_text("3000\n")
    clock[0] += 1
    assert energy.joules() == pytest.approx(20.0)  # and from 5 W to 15 W in 1 s
    energy.close()


def test_the_thread_reads_by_itself(tmp_path: Path) -> None:
    write_chip(tmp_path, NANO)
    energy = find_energy(gpu=True, root=tmp_path)
    assert energy is not None
    while energy.joules() <= 0:
        pass
    energy.close()


def test_a_rail_that_cannot_be_read_any_more_is_no_zero(tmp_path: Path) -> None:
    folder = write_chip(tmp_path, NANO)
    energy = RailEnergy(find_rails(tmp_path))
    (folder / "curr1_input").unlink()
    energy._thread.join()
    with pytest.raises(FileNotFoundError):
        energy.joules()
    energy.close()


def test_without_a_driver_nothing_counts() -> None:
    assert driver_energy("libno-such-driver.so") is None


NVML = """
static unsigned long long counted = 1500;
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = GPUS; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &counted; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *out) {
    if (device != &counted || !COUNTS) return 3;
    *out = counted; counted += 250; return 0;
}
"""


@pytest.mark.parametrize(
    ("init", "gpus", "counts", "found"),
    [(0, 1, 1, True), (9, 1, 1, False), (0, 2, 1, False), (0, 1, 0, False)],
)
def test_the_driver_s_counter_is_in_joules(
    tmp_path: Path, init: int, gpus: int, counts: int, found: bool
) -> None:
    """Against a library of ours with NVML's functions; no driver is here."""
    source, library = tmp_path / "nvml.c", tmp_path / "nvml.so"
    source.write_text(NVML)
    defined = [f"-DINIT={init}", f"-DGPUS={gpus}", f"-DCOUNTS={counts}"]
    subprocess.run(["cc", "-shared", "-fPIC", *defined, source, "-o", library], check=True)
    energy = driver_energy(str(library))
    assert (energy is not None) == found
    if energy is not None:
        assert energy.joules() == pytest.approx(
            1.75
        )  # the first count was looked at to see that there is one
        assert energy.joules() == pytest.approx(2.0)
        energy.close()
    assert ctypes.sizeof(ctypes.c_ulonglong) == 8
