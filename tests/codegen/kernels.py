"""Running hand-built kernels in the tests: lower, compile, load, call."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence

import numpy as np

from rung.codegen.llvm.lower import LoweredKernel, lower_kernel
from rung.codegen.llvm.target import Target, emit_object, host
from rung.core.dtype import DType
from rung.ir.expr import Call, Expr, raw_call, var
from rung.kernel.loop import Block, Buffer, For, Kernel, Stmt, loop
from rung.runtime.loader import link

_PHASE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


class Compiled:
    """A kernel as callable phases."""

    def __init__(self, kernel: Kernel, target: Target | None = None):
        self.kernel = kernel
        self.lowered: LoweredKernel = lower_kernel(kernel, target or host())
        image = emit_object(self.lowered.ir_text, target or host())
        self.library = link([image], [symbol for symbol, _ in self.lowered.phases])
        self.functions = [_PHASE(self.library.address(symbol)) for symbol, _ in self.lowered.phases]

    def pointers(self, arrays: Sequence[np.ndarray]) -> ctypes.Array[ctypes.c_void_p]:
        return (ctypes.c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])

    def __call__(self, *arrays: np.ndarray, parts: int = 1) -> None:
        """Run every phase on arrays in the order of the parameters, its grid cut into `parts`."""
        assert len(arrays) == len(self.kernel.params)
        for array, buffer in zip(arrays, self.kernel.params, strict=True):
            assert array.dtype == buffer.dtype.numpy, (array.dtype, buffer)
            assert array.nbytes >= buffer.nbytes
        args = self.pointers(arrays)
        scratch = np.zeros(self.lowered.scratch_bytes + 64, np.uint8)
        base = -(-scratch.ctypes.data // 64) * 64
        for function, (_, grid) in zip(self.functions, self.lowered.phases, strict=True):
            cuts = [grid * p // parts for p in range(parts + 1)]
            for begin, end in itertools.pairwise(cuts):
                function(args, begin, end, base)


def call(op: str, *args: Expr, dtype: DType | None = None) -> Expr:
    """`op(*args)` with the dtype of the first argument unless given."""
    return raw_call(op, args, dtype or args[0].dtype)


def kernel(params: Sequence[Buffer], *stmts: Stmt, name: str = "k") -> Kernel:
    return Kernel(name, tuple(params), Block(stmts))


def vector(axis: object, *body: Stmt, lanes: int = 0) -> For:
    """A vector loop over the whole extent of `axis`."""
    return For(axis, loop(axis).extent, Block(body), "vector", lanes)  # type: ignore[attr-defined]


__all__ = ["Call", "Compiled", "call", "kernel", "loop", "var", "vector"]
