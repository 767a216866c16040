"""Typed errors, each with the op, the place in the user's program and the fix.

ShapeError: matmul: inner dimensions differ: f32[8,64] @ f32[32,16]
  at train.py:41   y = x @ w
  fix: the right operand needs 64 rows; did you mean w.T?
"""

from __future__ import annotations

import numpy as np

from rung.core.source import NOWHERE, Source, mistaken_source


class RungError(Exception):
    """Base of all errors that rung raises. `message`, `source` (user's line) and `fix` are kept."""

    def __init__(self, message: str, *, fix: str | None = None, source: Source | None = None):
        self.message = message
        self.fix = fix
        self.source = source if source is not None else mistaken_source()
        super().__init__(self._text())

    def _text(self) -> str:
        lines = [self.message]
        if self.source is not None and self.source.line:
            lines.append(f"  at {self.source.describe()}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def at(self, source: Source) -> RungError:
        """The same error on another line of the user's."""
        return type(self)(self.message, fix=self.fix, source=source)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuilt, (type(self), self.message, self.fix, self.source), vars(self))


def _rebuilt(
    kind: type[RungError], message: str, fix: str | None, source: Source | None
) -> RungError:
    return kind(message, fix=fix, source=source or NOWHERE)


class ShapeError(RungError, ValueError):
    """Shapes that do not fit an op."""


class ArgumentError(RungError, TypeError):
    """An argument of the wrong kind."""


class DomainError(RungError, ValueError):
    """A number, or a name of a mode, that a function does not take."""


class DTypeError(RungError, TypeError):
    """A dtype that an op does not take, or that is unknown."""


class AxisError(ShapeError, IndexError):
    """An axis out of range or given twice."""


class LinAlgError(RungError, np.linalg.LinAlgError):
    """A matrix that cannot be decomposed: singular, not positive definite, not finite."""


class IndexingError(RungError, IndexError):
    """An index that is out of range or of the wrong kind."""


class MissingKeyError(IndexingError, KeyError):
    """A name that a container does not have."""

    def __str__(self) -> str:
        return self._text()


class DeviceError(RungError, ValueError):
    """An unknown or unusable device."""


class InterchangeError(RungError, BufferError, ValueError):
    """Memory that cannot be shared with another library, or not without a copy where none is
    allowed."""


class TraceError(RungError, TypeError):
    """Something that cannot be done while a function is being traced."""


class GradientError(RungError, TypeError):
    """A derivative that does not exist or was asked for wrongly."""


class SourceError(RungError, TypeError):
    """Python source that cannot be read, or not be transformed as it was asked for."""


class GraphError(RungError):
    """A graph that breaks a rule of the IR."""


class ParseError(GraphError, SyntaxError):
    """Text of a level that does not parse; `lineno` and `offset` count from 1."""

    def __str__(self) -> str:
        return self._text()


class LoweringError(RungError):
    """A program that cannot be brought down to the next level."""


class ScheduleError(RungError):
    """A schedule step whose side condition does not hold."""


class CheckpointError(RungError, ValueError):
    """A checkpoint that is corrupt, truncated or of another model."""


class AllocationError(RungError, MemoryError):
    """Memory that the system does not give."""


class SettingsError(RungError, ValueError):
    """An unknown or ill-formed setting."""


class NonFiniteError(RungError, ArithmeticError):
    """A NaN or an infinity where `--check-finite` forbids it."""
