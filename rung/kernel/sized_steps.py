"""Schedule steps for loops whose extents are made of sizes: halve."""

from __future__ import annotations

from dataclasses import dataclass

from rung.ir.expr import Expr, Var, bounds, compare, const, iadd, ifloordiv, imod, imul, var
from rung.kernel.loop import For, Kernel, Stmt, loop
from rung.kernel.rewrite import block, substitute_stmt, when
from rung.kernel.step import Step


@dataclass(frozen=True)
class Halve(Step):
    """A loop of few iterations becomes loops of constant extents, as the binary digits of its
    extent say.

        for i in range(n%8, at_most=7):          if n%8//4 == 1:
            y[i] = x[i]                              for i_4 in range(4): y[i_4] = x[i_4]
                                        ->       if n%4//2 == 1:
                                                     for i_2 in range(2): y[n%8//4*4 + i_2] = ...
                                                 if n%2 == 1: ...
        halve('i')

    A loop of constant extent stays."""

    name = "halve"
    axis: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        return self.on_loops(kernel, self.axis, self._parts)

    def names(self, most: int) -> tuple[str, ...]:
        """The axes that a loop of at most `most` iterations becomes."""
        return tuple(f"{self.axis}_{1 << p}" for p in reversed(range(most.bit_length())))

    def _parts(self, whole: For) -> Stmt:
        limits = bounds(whole.extent)
        if limits is None:
            self.fail(f"the extent of {self.axis!r} has no limits")
        if limits[0] == limits[1]:
            return whole
        if whole.kind not in ("serial", "unroll"):
            self.fail(f"loop {self.axis!r} is {whole.kind} already")
        parts: list[Stmt] = []
        for p in reversed(range(min(limits[1], whole.axis.extent).bit_length())):
            size = 1 << p
            axis = var(f"{self.axis}_{size}", size)
            done = imul(ifloordiv(whole.extent, 2 * size), 2 * size)
            mapping: dict[Var, Expr] = {whole.axis: iadd(done, axis)}
            digit = imod(ifloordiv(whole.extent, size), 2)
            body = block(substitute_stmt(whole.body, mapping))
            parts.append(when(compare("equal", digit, const(1)), loop(axis, *body.stmts)))
        return block(*parts)
