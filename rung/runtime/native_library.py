"""The native runtime, compiled once per machine and kept in the object cache."""

from __future__ import annotations

import hashlib
from functools import cache

from rung.kernel.machine import host_machine
from rung.runtime.assemble import assemble
from rung.runtime.cache import object_cache
from rung.runtime.loader import Library, link
from rung.runtime.native import SYMBOLS, native_ir


@cache
def native_library() -> Library:
    """The loaded runtime. It is never unloaded: workers execute its code until the process ends."""
    machine = host_machine()
    text = native_ir(machine.triple)
    key = hashlib.sha256(text.encode()).hexdigest()
    image = object_cache(machine).get(key)
    if image is None:
        image = assemble(text, machine)
        object_cache(machine).put(key, image)
    return link([image], SYMBOLS).keep_forever()
