"""The measured roof: plausible, kept on disk, rebuilt when damaged; its kernels for all targets."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from rung.codegen.llvm.target import emit_assembly
from rung.core.settings import configure, settings
from rung.kernel.machine import avx2_machine, avx512_machine, host_machine, neon_machine
from rung.runtime import roof as roof_module
from rung.runtime.assemble import target_of
from rung.runtime.roof import Roof, measure_roof, roof, roof_ir

FAKE = Roof(2, 100.0, 200.0, 20.0, 30.0, 15.0, 25.0)


@pytest.fixture
def fresh_cache(tmp_path: Path) -> Iterator[Path]:
    before = settings().cache_dir
    configure(cache_dir=str(tmp_path))
    yield tmp_path
    configure(cache_dir=before)


def test_measured_numbers_are_plausible():
    found = measure_roof()
    machine = host_machine()
    one_fma_a_cycle = 2 * machine.lanes(4)  # GFLOP/s at 1 GHz
    assert 0.3 * one_fma_a_cycle < found.fma_one_gflops < 12 * one_fma_a_cycle * 2
    assert 0.2 * found.fma_one_gflops < found.fma_all_gflops
    assert 0.5 < found.read_one_gbs < 1000
    assert 0.5 < found.copy_one_gbs < 1000


def test_roof_is_kept_and_rebuilt(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []

    def measured() -> Roof:
        calls.append(1)
        return FAKE

    monkeypatch.setattr(roof_module, "measure_roof", measured)
    assert roof() == FAKE
    assert roof() == FAKE
    assert len(calls) == 1
    (path,) = fresh_cache.glob("roof/*.json")
    assert json.loads(path.read_text()) == asdict(FAKE)
    for damage in ("", "{}", '{"threads": "x"}', json.dumps(asdict(FAKE) | {"read_all_gbs": 0})):
        path.write_text(damage)
        assert roof() == FAKE
    assert len(calls) == 5


def test_least_time_is_the_higher_of_compute_and_memory():
    assert FAKE.least_us(200e9, 0) == pytest.approx(1e6)
    assert FAKE.least_us(0, 30e9) == pytest.approx(1e6)


@pytest.mark.parametrize(
    ("machine", "instruction"),
    [
        (avx512_machine(), r"vfmadd\w+ps\s.*%zmm"),
        (avx2_machine(), r"vfmadd\w+ps\s.*%ymm"),
        (neon_machine(), r"fmla\s+v\d+\.4s"),
    ],
    ids=["avx512", "avx2", "neon"],
)
def test_peak_kernel_is_nothing_but_fma(machine, instruction):
    text = emit_assembly(roof_ir(machine), target_of(machine))
    wanted = roof_module._accumulators(machine)
    assert len(re.findall(instruction, text)) >= wanted
