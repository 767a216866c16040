"""The machine record: presets, detection on the host, quota parsing."""

from pathlib import Path

import pytest

from rung.core.errors import DeviceError
from rung.kernel.machine import (
    _bytes_of,
    _cgroup_quota,
    avx2_machine,
    avx512_machine,
    host_machine,
    machine_named,
    neon_machine,
)


@pytest.mark.parametrize("make", [avx512_machine, avx2_machine, neon_machine, host_machine])
def test_records_are_consistent(make):
    machine = make()
    assert machine.lanes(4) * 4 == machine.vector_bytes
    assert machine.cores >= 1
    assert 0 < machine.l1d_bytes <= machine.l2_bytes <= machine.l3_bytes
    assert machine.peak_gflops(4) == 2 * machine.peak_gflops(8)
    assert hash(machine) == hash(make())


def test_features_are_looked_up_by_name():
    assert avx512_machine().has("avx512bf16")
    assert not avx2_machine().has("avx512f")
    assert neon_machine().has("dotprod")


def test_unknown_machine_names_the_known_ones():
    with pytest.raises(DeviceError, match="avx512"):
        machine_named("vax")


def test_quota_of_version_2_takes_the_least_on_the_way_up(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert _cgroup_quota(tmp_path, "0::/a/b") == 1.5


def test_quota_of_version_1(tmp_path: Path):
    (tmp_path / "cpu" / "x").mkdir(parents=True)
    (tmp_path / "cpu" / "x" / "cpu.cfs_quota_us").write_text("200000")
    (tmp_path / "cpu" / "x" / "cpu.cfs_period_us").write_text("100000")
    assert _cgroup_quota(tmp_path, "3:cpu,cpuacct:/x") == 2.0
    (tmp_path / "cpu" / "x" / "cpu.cfs_quota_us").write_text("-1")
    assert _cgroup_quota(tmp_path, "3:cpu,cpuacct:/x") is None


def test_sizes_of_caches():
    assert [_bytes_of(text) for text in ("48K", "2M", "512")] == [48 << 10, 2 << 20, 512]
