"""Where in the user's program a thing came from."""

from __future__ import annotations

import linecache
import os
import sys
import threading
from dataclasses import dataclass
from types import FrameType

PACKAGE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@dataclass(frozen=True, slots=True)
class Source:
    """A line of the user's program (`file`, `line`), the module path under which it ran
    (`h.3.attn`), and `via`: the pass, rule or composite that made the node from that line."""

    file: str = ""
    line: int = 0
    path: str = ""
    via: str = ""

    def with_via(self, via: str) -> Source:
        """The same place, made by `via` (kept in order: `softmax/jvp/transpose`; what repeats is
        written once)."""
        if self.via == via or self.via.endswith("/" + via):
            return self
        return Source(self.file, self.line, self.path, f"{self.via}/{via}" if self.via else via)

    @property
    def text(self) -> str:
        """The stripped source line, empty when the file cannot be read."""
        return linecache.getline(self.file, self.line).strip() if self.line else ""

    def describe(self) -> str:
        """`train.py:41   y = x @ w`"""
        text = self.text
        name = os.path.basename(self.file)
        return f"{name}:{self.line}   {text}" if text else f"{name}:{self.line}"


NOWHERE = Source()

_ours: dict[str, bool] = {}
"""Whether a file is of this package, and no line of the user's."""
_intern: dict[tuple[str, int, str], Source] = {}


class _Modules(threading.local):
    """The module paths that this thread is in, the innermost last."""

    def __init__(self) -> None:
        self.paths: list[str] = []


_modules = _Modules()


def module_paths() -> list[str]:
    """The module paths (`h.3.attn`) that this thread is in, the innermost last: nodes belong to it.
    Who adds one takes what is there too much away (`del paths[depth:]`) whatever happens."""
    return _modules.paths


def user_frame() -> FrameType | None:
    """The innermost frame outside this package, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE_DIR):
        frame = frame.f_back
    return frame


def user_source() -> Source:
    """The user's line that is being executed: the innermost frame outside this package (a model in
    `rung.models` counts as the user's program)."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        ours = _ours.get(name)
        if ours is None:
            ours = name.startswith(PACKAGE_DIR) and not name.startswith(USER_LIKE)
            _ours[name] = ours
        if not ours:
            break
        frame = frame.f_back
    return _source_of(frame)


def mistaken_source() -> Source:
    """The line that a mistake is on: the innermost frame outside this package, so that of the call
    when a model or an optimizer of ours refuses what it is given. None while a command of ours
    runs: its user has no line."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE_DIR):
        if frame.f_code.co_filename.startswith(COMMANDS):
            return NOWHERE
        frame = frame.f_back
    return _source_of(frame)


def _source_of(frame: FrameType | None) -> Source:
    if frame is None:
        return NOWHERE
    paths = _modules.paths
    path = paths[-1] if paths else ""
    key = (frame.f_code.co_filename, frame.f_lineno, path)
    found = _intern.get(key)
    if found is None:
        found = _intern[key] = Source(*key)
    return found


COMMANDS = PACKAGE_DIR + "tools" + os.sep
USER_LIKE = tuple(PACKAGE_DIR + folder + os.sep for folder in ("models", "optim", "tools"))
