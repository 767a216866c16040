"""Strategies: which schedule a naive kernel gets, from its shape and the machine."""

from __future__ import annotations

from dataclasses import replace

from rung.kernel.loop import Block, For, Kernel
from rung.kernel.machine import Machine


def schedule_kernel(kernel: Kernel, group: str, machine: Machine) -> Kernel:
    """The scheduled kernel for a naive kernel of a `group` kind."""
    phases = tuple(
        replace(p, kind="parallel") if isinstance(p, For) and group != "scatter" else p
        for p in kernel.phases
    )
    return replace(kernel, body=Block(phases))
