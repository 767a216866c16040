"""Object code in, callable addresses out: one LLJIT for the process."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections.abc import Iterable, Sequence
from functools import cache

import llvmlite.binding as llvm

from rung.core.errors import LoweringError


class Library:
    """Linked object code. It stays loaded as long as this object (or `keep_forever`) holds it.

    `note` is text that the compiler of the code kept with it.
    """

    __slots__ = ("__weakref__", "_addresses", "_tracker", "note")

    def __init__(self, tracker: object, addresses: dict[str, int], note: str):
        self.note = note
        self._tracker = tracker
        self._addresses = addresses

    def address(self, symbol: str) -> int:
        """Address of an exported function. Raises LoweringError for an unknown one."""
        try:
            return self._addresses[symbol]
        except KeyError:
            raise LoweringError(f"object code has no symbol {symbol!r}") from None

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the exported functions."""
        return tuple(self._addresses)

    def keep_forever(self) -> Library:
        """Never unload this library, not even at interpreter exit; returns it."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
        return self


class _Linker:
    """The process's LLJIT; libraries are numbered because LLVM never lets a name be used again."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        _load_math_library()
        target = llvm.Target.from_triple(llvm.get_process_triple())
        machine = target.create_target_machine(
            cpu=llvm.get_host_cpu_name(), opt=2, reloc="pic", codemodel="small", jit=True
        )
        self._machine = machine
        self._jit = llvm.create_lljit_compiler(machine)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._jit))
        self._numbers = itertools.count()

    def link(self, objects: Sequence[bytes], symbols: Iterable[str], note: str) -> Library:
        """One library of these objects; names of symbols must be unique within it."""
        names = tuple(symbols)
        builder = llvm.JITLibraryBuilder().add_current_process()
        for image in objects:
            builder.add_object_img(image)
        for name in names:
            builder.export_symbol(name)
        try:
            tracker = builder.link(self._jit, f"rung{next(self._numbers)}")
        except RuntimeError as error:
            raise LoweringError(f"object code does not link: {error}") from None
        return Library(tracker, {name: tracker[name] for name in names}, note)


@cache
def _linker() -> _Linker:
    return _Linker()


def link(objects: Sequence[bytes], symbols: Iterable[str], note: str = "") -> Library:
    """Load object code and export `symbols`; calls into libc and libm are resolved.

    Raises LoweringError when an image is broken or a symbol is missing or defined twice.
    """
    return _linker().link(objects, symbols, note)


def _load_math_library() -> None:
    """Make libm's symbols visible to the process-wide lookup (on macOS they always are)."""
    for name in ("libm.so.6", "libm.so"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            return
