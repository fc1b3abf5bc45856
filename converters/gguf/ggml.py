"""ggml's own quantizer, from the library inside llama-cpp-python, through ctypes (which releases the GIL)."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import RuntimeUnavailableError
from edgekit.tensors import Float32

_NAMES = {"darwin": ("libggml-base.dylib", "libggml-base.so"), "win32": ("ggml-base.dll", "libggml-base.dll")}


_F32 = 0


class _Traits(ctypes.Structure):
    """ggml_type_traits of ggml.h, as far as it is used."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("size", ctypes.c_size_t),
        ("quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


class Ggml:
    """The functions of libggml-base that a conversion needs."""

    def __init__(self, library: Path) -> None:
        lib = ctypes.CDLL(str(library))
        size, rows, pointer = ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p
        self._quantize = lib.ggml_quantize_chunk
        self._quantize.argtypes = [ctypes.c_int, pointer, pointer, rows, rows, rows, pointer]
        self._quantize.restype = size
        self._traits = lib.ggml_get_type_traits
        self._traits.argtypes, self._traits.restype = [ctypes.c_int], ctypes.POINTER(_Traits)
        self._validate = lib.ggml_validate_row_data
        self._validate.argtypes = [ctypes.c_int, pointer, size]
        self._validate.restype = ctypes.c_bool

    def quantize(
        self, kind: int, rows: Float32, out: NDArray[np.uint8], weights: Float32 | None = None
    ) -> int:
        """Quantize ``rows`` (n, columns) to ggml type ``kind`` into ``out``; returns the bytes written.

        ``weights``, one a column, say how much an error in it matters. Some types abort without them.
        """
        count, columns = rows.shape
        matrix = None if weights is None else weights.ctypes.data
        return int(self._quantize(kind, rows.ctypes.data, out.ctypes.data, 0, count, columns, matrix))

    def widens(self, kind: int) -> bool:
        """Whether rows of a type can be turned into float32."""
        return kind == _F32 or bool(self._traits(kind).contents.to_float)

    def widen(self, kind: int, data: NDArray[np.uint8], out: Float32) -> None:
        """Rows of ggml type ``kind`` as float32, into C-contiguous ``out``."""
        if kind == _F32:
            out.reshape(-1)[...] = data.view("<f4")
        else:
            self._traits(kind).contents.to_float(data.ctypes.data, out.ctypes.data, out.size)

    def validate(self, kind: int, data: NDArray[np.uint8], nbytes: int) -> bool:
        """Whether quantized rows are free of infinities and NaNs."""
        return bool(self._validate(kind, data.ctypes.data, nbytes))


@cache
def load() -> Ggml:
    """Find and open libggml-base without importing llama_cpp; ``RuntimeUnavailableError`` if it isn't there."""
    spec = find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeUnavailableError(
            "llama-cpp-python is not installed: its library does the quantizing",
            next_step="pip install 'edgekit[llamacpp]'",
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "lib"
    for name in _NAMES.get(sys.platform, ("libggml-base.so",)):
        if (folder / name).exists():
            return Ggml(folder / name)
    raise RuntimeUnavailableError(
        "llama-cpp-python has no ggml-base library",
        path=folder,
        next_step="reinstall it: pip install --force-reinstall --no-cache-dir 'edgekit[llamacpp]'",
    )
