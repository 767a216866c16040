"""What the instructions of Python functions do to the value stack: where each one stands, how deep
the stack is before it, and which reads only serve an update (`self.count += 1`).
"""

from __future__ import annotations

import dis
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import CodeType
from typing import Any

NOTHING = frozenset(
    (
        "CACHE", "COPY_FREE_VARS", "EXTENDED_ARG", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT",
        "JUMP_FORWARD", "KW_NAMES", "MAKE_CELL", "NOP", "NOT_TAKEN", "PRECALL", "RESUME",
        "RETURN_GENERATOR", "SETUP_ANNOTATIONS",
    )
)  # fmt: skip
"""Instructions that leave the stack as it is."""

_ENDS = frozenset(
    ("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD",
     "JUMP_BACKWARD_NO_INTERRUPT")
)  # fmt: skip
_AUGMENTED = {
    "STORE_ATTR": ("LOAD_ATTR", 1),
    "STORE_SUBSCR": ("BINARY_SUBSCR", 0),
    "STORE_DEREF": ("LOAD_DEREF", 2),
    "STORE_GLOBAL": ("LOAD_GLOBAL", 2),
}
"""Store -> the load of the same place, and how much less deep the stack is before that than before
the operation between."""


@dataclass(slots=True)
class Instruction:
    """An instruction with the depth of the stack before it (-1: not known). `updating`: a load
    whose value is only changed and put back."""

    name: str
    offset: int
    arg: int
    value: Any
    effect: int
    depth: int = -1
    updating: bool = False


@lru_cache(maxsize=4096)
def instructions(code: CodeType) -> dict[int, Instruction]:
    """The instructions of a function by their offsets; at that of a prefix stands what it is the
    prefix of."""
    found: dict[int, Instruction] = {}
    prefixes: list[int] = []
    order: list[int] = []
    jumps: dict[int, int] = {}
    calls_in_two = "PRECALL" in dis.opmap
    for i in dis.get_instructions(code):
        if i.opname == "EXTENDED_ARG":
            prefixes.append(i.offset)
            continue
        arg = 0 if i.arg is None else i.arg
        operand = i.arg if i.opcode >= dis.HAVE_ARGUMENT else None
        effect = dis.stack_effect(i.opcode, operand, jump=False)
        if calls_in_two and i.opname in ("PRECALL", "CALL"):  # the first is said to take the values
            effect = 0 if i.opname == "PRECALL" else -1 - arg
        found[i.offset] = Instruction(i.opname, i.offset, arg, i.argval, effect)
        order.append(i.offset)
        if i.opcode in dis.hasjrel or i.opcode in dis.hasjabs:
            jumps[i.offset] = dis.stack_effect(i.opcode, operand, jump=True)
        for offset in prefixes:
            found[offset] = found[i.offset]
        prefixes.clear()
    _find_depths(code, found, order, jumps)
    _find_updates([found[offset] for offset in order])
    return found


def _find_depths(
    code: CodeType, found: dict[int, Instruction], order: list[int], jumps: dict[int, int]
) -> None:
    following = dict(pairwise(order))
    work = [(order[0], 0)]
    handlers = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    work += [(h.target, h.depth + 1 + bool(h.lasti)) for h in handlers]
    while work:
        at, depth = work.pop()
        i = found.get(at)
        if i is None or i.depth >= 0:
            continue
        i.depth, offset = depth, i.offset
        if offset in jumps:
            work.append((i.value, max(depth + jumps[offset], 0)))
        if i.name not in _ENDS and offset in following:
            work.append((following[offset], max(depth + i.effect, 0)))


def _find_updates(order: list[Instruction]) -> None:
    for at, i in enumerate(order):
        if i.name != "BINARY_OP" or i.arg < 13:  # from 13 on: +=, &= …
            continue
        store = next((s for s in order[at + 1 : at + 6] if s.name in _AUGMENTED), None)
        if store is None:
            continue
        name, less = _AUGMENTED[store.name]
        for load in reversed(order[max(at - 60, 0) : at]):
            same = load.name == name and (name == "BINARY_SUBSCR" or load.value == store.value)
            if same and load.depth == i.depth - less:
                load.updating = True
                break
