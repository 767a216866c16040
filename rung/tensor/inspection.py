"""What the namespace says of itself, as the array API asks: its version, devices and dtypes."""

from __future__ import annotations

import sys
from types import ModuleType

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import RungError
from rung.tensor.creation import check_device
from rung.tensor.dtypes import isdtype

API_VERSION = "2024.12"
_VERSIONS = ("2021.12", "2022.12", "2023.12", API_VERSION)


def namespace_of(api_version: str | None) -> ModuleType:
    """The module whose functions take tensors. Raises RungError for a version of the array API that
    it does not follow."""
    known = api_version is None or (isinstance(api_version, str) and api_version in _VERSIONS)
    if not known:
        raise RungError(
            f"version {api_version!r} of the array API is not known",
            fix=f"use one of {', '.join(_VERSIONS)}",
        )
    return sys.modules[__name__.partition(".")[0]]


class NamespaceInfo:
    """Answers about devices, dtypes and abilities (`rung.__array_namespace_info__()`)."""

    def capabilities(self) -> dict[str, bool | int | None]:
        """What results may depend on, and how many dims there can be (NumPy, in which tensors are
        looked at, has at most 64)."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """Where tensors live."""
        return "cpu"

    def devices(self) -> list[str]:
        """All devices."""
        return ["cpu"]

    def default_dtypes(self, *, device: object = None) -> dict[str, DType]:
        """The dtypes of floats, integers and positions that are given as Python numbers."""
        check_device(device)
        return {"real floating": dt.float32, "integral": dt.int64, "indexing": dt.int64}

    def dtypes(
        self, *, device: object = None, kind: str | tuple[str, ...] | None = None
    ) -> dict[str, DType]:
        """The dtypes of a kind (see `isdtype`) that the array API knows, by name."""
        check_device(device)
        return {
            d.numpy.name: d
            for d in dt.ALL
            if d not in (dt.float16, dt.bfloat16) and (kind is None or isdtype(d, kind))
        }


def __array_namespace_info__() -> NamespaceInfo:
    """Answers about devices, dtypes and abilities.

    >>> import rung
    >>> rung.__array_namespace_info__().devices()
    ['cpu']
    """
    return NamespaceInfo()
