"""Arrays as attributes: immutable, interned, equal by their bytes."""

from __future__ import annotations

import hashlib
from weakref import WeakValueDictionary

import numpy as np

from rung.core.dtype import as_dtype
from rung.core.errors import GraphError
from rung.ir.op import Array
from rung.ir.types import TensorType


class ArrayData:
    """An immutable array that compares by its bytes, so that it can be an attribute. Interned: made
    by `array_data`; `digest` (hex) names it where text leaves the elements out."""

    __slots__ = ("__weakref__", "array", "digest", "type")

    array: Array
    digest: str
    type: TensorType

    def __repr__(self) -> str:
        return f"array_data({self.digest!r})"


_array_data: WeakValueDictionary[str, ArrayData] = WeakValueDictionary()


def array_data(array: Array | str) -> ArrayData:
    """The interned data of an array (copied), or, from a digest, the data alive under it.

    Raises GraphError for an unknown digest, DTypeError for an unknown dtype."""
    if isinstance(array, str):
        known = _array_data.get(array)
        if known is None:
            raise GraphError(
                f"array_data: no array with digest {array!r} in this process",
                fix="print the graph with its data, or keep the graph that holds it alive",
            )
        return known
    dtype = as_dtype(array.dtype)
    content = np.array(array, dtype.numpy, order="C")
    header = f"{dtype.name}{content.shape}".encode()
    digest = hashlib.sha256(header + content.tobytes()).hexdigest()[:32]
    found = _array_data.get(digest)
    if found is None:
        content.flags.writeable = False
        found = ArrayData()
        found.array, found.digest = content, digest
        found.type = TensorType(dtype, content.shape)
        _array_data[digest] = found
    return found
