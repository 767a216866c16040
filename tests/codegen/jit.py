"""Compiles a function of arrays through our builder and calls it on this machine."""

import ctypes
import itertools
from collections.abc import Callable, Sequence

import llvmlite.binding as llvm
import numpy as np

from rung.codegen.llvm.builder import Function, Param
from rung.codegen.llvm.module import Module
from rung.codegen.llvm.target import Target, emit_object, host, target_machine
from rung.codegen.llvm.types import Val, dtype_bytes

_serial = itertools.count()
NUMPY = {"bool": "bool", "f16": "float16", "f32": "float32", "f64": "float64"} | {
    f"{k}{n}": f"{t}{n}" for k, t in (("i", "int"), ("u", "uint")) for n in (8, 16, 32, 64)
}


class Loaded:
    """Machine code in this process; keeps what it needs alive."""

    def __init__(self, module: Module, target: Target, name: str):
        self.text = module.text()
        self.jit = llvm.create_lljit_compiler(target_machine(target))
        code = emit_object(self.text, target)
        builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        self.library = builder.export_symbol(name).link(self.jit, f"lib{next(_serial)}")
        self.address = self.library[name]


def module_for(target: Target) -> Module:
    return Module(target.attributes, target.enabled)


def map_module(
    target: Target,
    body: Callable[[Function, Sequence[Val]], Val],
    dtypes: Sequence[str],
    result: str,
    lanes: int,
) -> Module:
    """`f(n, inputs..., out)` that applies `body` to vectors of `lanes` elements."""
    module = module_for(target)
    params = [Param("i64", "n")]
    params += [Param("ptr", f"x{i}", "noalias") for i in range(len(dtypes))]
    f = Function(module, "f", [*params, Param("ptr", "out", "noalias")])
    n, *pointers, out = f.params
    with f.loop(0, n, lanes) as loop:

        def at(pointer: Val, dtype: str) -> Val:
            offset = f.mul(loop.index, f.index(dtype_bytes(dtype)))
            return f.gep(pointer, offset)

        pairs = zip(dtypes, pointers, strict=True)
        values = [f.load_dtype(d, lanes, at(p, d)) for d, p in pairs]
        f.store_dtype(result, body(f, values), at(out, result))
    f.ret()
    return module


def numpy_type(dtype: str) -> np.dtype:
    if dtype == "bf16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(NUMPY[dtype])


def compiled_map(
    body: Callable[[Function, Sequence[Val]], Val],
    dtypes: Sequence[str],
    result: str,
    lanes: int,
    target: Target | None = None,
) -> Callable[..., np.ndarray]:
    """A NumPy function that applies `body` to arrays of equal length."""
    target = target or host()
    loaded = Loaded(map_module(target, body, dtypes, result, lanes), target, "f")
    pointers = [ctypes.c_void_p] * (len(dtypes) + 1)
    native = ctypes.CFUNCTYPE(None, ctypes.c_int64, *pointers)(loaded.address)

    def call(*arrays: np.ndarray) -> np.ndarray:
        size = len(arrays[0])
        padded = -(-size // lanes) * lanes
        inputs = []
        for array, dtype in zip(arrays, dtypes, strict=True):
            buffer = np.ones(padded, numpy_type(dtype))
            buffer[:size] = array
            inputs.append(buffer)
        out = np.zeros(padded, numpy_type(result))
        native(padded, *[a.ctypes.data for a in inputs], out.ctypes.data)
        return out[:size]

    call.native = native
    call.loaded = loaded
    return call
