"""The counts of a comparison with torch's operators, for the screen and for `docs/opinfo.md`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from tests.oracle.outcome import INFOS, Outcome, counterpart
from tests.oracle.table import LEFT_OUT, reason_unmapped


def unmapped() -> dict[str, list[str]]:
    """The operators without a counterpart, by the reason."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in INFOS:
        if counterpart(name) is None:
            found[reason_unmapped(name) or "no reason given"].append(name)
    return dict(found)


def counts(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Lines of a table: what is counted, and how many."""
    smooth = sum(info.supports_autograd for info in INFOS.values())
    checks = {k: sum(o.passed[k] for o in outcomes) for k in ("value", "gradient", "forward")}
    by = {k: sum(o.passes(k) for o in outcomes) for k in checks}
    num_samples = sum(o.samples for o in outcomes)
    expected = sum(len(o.expected) for o in outcomes)
    share = 100 * expected / max(num_samples, 1)
    return [
        ("operators in torch's table", str(len(INFOS))),
        ("with a counterpart here, compared", str(len(outcomes))),
        ("every sample passes by value", f"{by['value']} of {len(INFOS)}"),
        ("every sample passes by gradient", f"{by['gradient']} of {smooth}"),
        ("every sample passes in forward mode", str(by["forward"])),
        ("samples", f"{num_samples:,}"),
        ("comparisons of values that passed", f"{checks['value']:,}"),
        ("comparisons of gradients that passed", f"{checks['gradient']:,}"),
        ("comparisons in forward mode that passed", f"{checks['forward']:,}"),
        ("samples that were compiled as well", f"{sum(o.compiled for o in outcomes):,}"),
        ("expected failures, with a reason", f"{expected:,} ({share:.2f} % of samples)"),
        ("failures", f"{sum(len(o.failures) for o in outcomes):,}"),
    ]


def expected_failures(outcomes: Sequence[Outcome]) -> list[tuple[str, str, int]]:
    """(operator, reason, how many)"""
    found = Counter((o.name, reason) for o in outcomes for _, reason in o.expected)
    return [(name, reason, n) for (name, reason), n in found.items()]


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """What the command prints."""
    lines = [f"{what:42} {number}" for what, number in counts(outcomes)]
    lines += [f"{'seconds':42} {seconds:.0f}", "", "expected failures:"]
    lines += [f"    {name}: {n} × {why}" for name, why, n in expected_failures(outcomes)]
    failing = [o for o in outcomes if o.failures]
    lines += ["", f"failing: {len(failing)}"]
    lines += [f"    {o.name}: {len(o.failures)} of {o.samples}" for o in failing]
    lines += ["", "without a counterpart:"]
    lines += [f"    {why}: {' '.join(names)}" for why, names in unmapped().items()]
    return "\n".join(lines)


def document(outcomes: Sequence[Outcome]) -> str:
    """The text of `docs/opinfo.md`."""
    lines = [HEAD, "| what | number |", "|---|---|"]
    lines += [f"| {what} | {number} |" for what, number in counts(outcomes)]
    lines += ["", "## Expected failures", ""]
    lines += ["| operator | how many | reason |", "|---|---|---|"]
    lines += [f"| `{name}` | {n} | {why} |" for name, why, n in expected_failures(outcomes)]
    lines += ["", "## Dtypes that are left out", ""]
    lines += ["| reason | dtypes | operators |", "|---|---|---|"]
    for why, dtypes, names in LEFT_OUT:
        lines.append(f"| {why} | {dtypes} | {' '.join(f'`{n}`' for n in names.split())} |")
    lines += ["", "## Operators without a counterpart", ""]
    for why, names in sorted(unmapped().items(), key=lambda p: -len(p[1])):
        lines += [f"**{why}** ({len(names)}): " + ", ".join(f"`{n}`" for n in names) + ".", ""]
    return "\n".join(lines)


HEAD = """# Beside torch's operators

torch tests its own operators with a table, `op_db`, that draws arguments for each: shapes, dtypes,
options, edge cases. `tests/oracle/table.py` says which function of ours is meant by which of them,
and `make opinfo` (`python -m tests.oracle`) runs both on the same arguments. This page is what that
command writes.

- At most 60 samples for each dtype, taken evenly, in f32, f64, bf16, i64, i32, u8 and bool, as far
  as torch has the operator in these. Gradients (reverse mode) are those of f32 and f64; forward
  mode is compared in f64.
- The samples run through the references of the ops (`RUNG_INTERPRET=1`); the first two of each
  operator are also compiled to machine code, with their gradients.
- A float passes when it is as near to torch's as `torch.testing.assert_close` wants for the dtype,
  or as near to what torch finds in f64 as torch is itself, within a factor 8. Its dtype must be
  torch's. Integers and bools must be equal; their dtype may be another, since promotion here is
  NumPy's.
- Memory of `empty` and its like is undefined: there, shape and dtype are compared.
"""
