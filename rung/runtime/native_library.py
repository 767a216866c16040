"""The native runtime, compiled once per machine and kept in the object cache."""

from __future__ import annotations

import hashlib
from functools import cache

from rung.kernel.machine import host_machine
from rung.runtime.compile import Module, Unit, compile_units
from rung.runtime.loader import Library
from rung.runtime.native import SYMBOLS, native_ir


@cache
def native_library() -> Library:
    """The loaded runtime. It is never unloaded: workers execute its code until the process ends."""
    text = native_ir(host_machine().triple)
    key = hashlib.sha256(text.encode()).hexdigest()
    unit = Unit(key, lambda: Module(text, SYMBOLS), "runtime")
    return compile_units([unit])[0].keep_forever()
