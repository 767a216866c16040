"""A few of the samples by which torch tests its operators, on every function of ours that is meant
by one. All samples in all dtypes: `make opinfo`."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.oracle.compare import Mismatch, check_value, differences, make_case  # noqa: E402
from tests.oracle.outcome import (  # noqa: E402
    INFOS,
    Limits,
    Outcome,
    chosen,
    counterpart,
    evaluated,
)
from tests.oracle.report import counts, document, unmapped  # noqa: E402
from tests.oracle.table import LEFT_OUT, TABLE  # noqa: E402
from tests.oracle.unmapped import UNMAPPED  # noqa: E402

MAPPED = [name for name in INFOS if counterpart(name) is not None]
EACH_COMPILED = 16
"""One of so many operators is compiled as well."""


@pytest.mark.parametrize("name", MAPPED)
def test_operator(name: str) -> None:
    compiled = int(MAPPED.index(name) % EACH_COMPILED == 0)
    limits = Limits(samples=2, compiled=compiled, dtypes=(torch.float32,), forward=False)
    if torch.float32 not in INFOS[name].dtypes:
        limits = Limits(samples=2, compiled=compiled, dtypes=(torch.int64, torch.bool))
    found = evaluated(name, limits)
    assert not found.failures, "\n".join(found.failures)
    assert found.passed["value"] or found.expected or not found.samples


def test_every_operator_has_a_counterpart_or_a_reason() -> None:
    assert "no reason given" not in unmapped()
    assert len(MAPPED) + sum(map(len, unmapped().values())) == len(INFOS)
    assert len(MAPPED) >= 500


def test_the_tables_name_operators_of_torch() -> None:
    known = {*INFOS, *(n.partition("/")[0] for n in INFOS)}
    assert not set(TABLE) - known
    listed = {n for names in UNMAPPED.values() for n in names.split()}
    listed |= {n for _, _, names in LEFT_OUT for n in names.split()}
    missing = [n for n in listed - known if not any(k.startswith(n.rstrip("*")) for k in known)]
    assert not missing


def test_a_wrong_function_is_noticed() -> None:
    info = INFOS["sin"]
    (sample,) = chosen(info, torch.float64, 2)[:1]
    check_value(make_case(info.op, TABLE["sin"], sample))
    with pytest.raises(Mismatch, match="where"):
        check_value(make_case(info.op, TABLE["cos"], sample))
    with pytest.raises(Mismatch, match="shape"):
        check_value(make_case(info.op, lambda x: TABLE["sin"](x).reshape(-1, 1, 1), sample))
    with pytest.raises(Mismatch, match="f64"):
        check_value(make_case(info.op, lambda x: TABLE["sin"](x).float(), sample))


def test_how_near_is_near() -> None:
    numpy = pytest.importorskip("numpy")
    one = numpy.float32([1.0])
    assert differences(one, one + numpy.float32(1e-6)) is None
    assert differences(one, one + numpy.float32(1e-4)) is not None
    assert differences(numpy.int64([3]), numpy.int64([4])) == "3 where 4 is right"
    assert differences(numpy.float32([numpy.nan]), numpy.float32([numpy.nan])) is None


def test_the_report_counts_what_passes() -> None:
    good, bad = Outcome("sin"), Outcome("cos")
    good.passed["value"] = good.samples = 3
    bad.passed["value"], bad.failed["value"], bad.samples = 2, 1, 3
    bad.failures.append("cos float32 1 value: Mismatch")
    bad.expected.append(("gradient", "a reason"))
    text = document([good, bad])
    lines = dict(counts([good, bad]))
    assert lines["every sample passes by value"] == f"1 of {len(INFOS)}"
    assert lines["failures"] == "1"
    assert "| `cos` | 1 | a reason |" in text
