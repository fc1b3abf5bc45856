"""ggml's tensors as the library lays them out in memory, mirrored, and the mirror held against the library itself."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import RuntimeUnavailableError
from edgekit.runtimes import _llamalib

F32, _I32 = 0, 26
_DIMS, _SOURCES, _OP_PARAMS, _NAME = 4, 10, 64, 64


class Tensor(ctypes.Structure):
    """ggml_tensor of ggml.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMS),
        ("nb", ctypes.c_size_t * _DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (_OP_PARAMS // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _NAME),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


class _InitParams(ctypes.Structure):
    """ggml_init_params of ggml.h."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


@dataclass(frozen=True)
class Layout:
    """The two multiplications' numbers in ``ggml_op``, and the library's functions that read a tensor's bytes."""

    mul_mat: int
    mul_mat_id: int
    library: Any

    def is_host(self, tensor: Tensor) -> bool:
        """Whether a tensor's bytes are in this process's memory, in the order that ``nb`` says."""
        return tensor.buffer is None or bool(self.library.ggml_backend_buffer_is_host(tensor.buffer))

    def values(self, address: int, kind: type[np.float32 | np.int32]) -> NDArray[Any]:
        """A tensor's numbers, dimensions reversed as numpy has them; a view where memory allows, valid until the next node."""
        tensor = Tensor.from_address(address)
        nbytes = self.library.ggml_nbytes(address)
        if self.is_host(tensor):
            raw = (ctypes.c_uint8 * nbytes).from_address(tensor.data)
        else:
            raw = (ctypes.c_uint8 * nbytes)()
            self.library.ggml_backend_tensor_get(address, raw, 0, nbytes)
        return np.ndarray(tuple(tensor.ne)[::-1], kind, raw, 0, tuple(tensor.nb)[::-1])


@cache
def layout() -> Layout:
    """Check the mirror; ``RuntimeUnavailableError`` where this llama.cpp has other tensors than those mirrored here."""
    library = _library()
    # Room for five small tensors with their data.
    context = library.ggml_init(_InitParams(1 << 16, None, False))
    try:
        return _checked(library, context)
    finally:
        library.ggml_free(context)


def _library() -> Any:
    """ggml's own functions, which the libraries that libllama is linked with export."""
    library = _llamalib.load()._lib
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_init": (pointer, [_InitParams]),
        "ggml_free": (None, [pointer]),
        "ggml_new_tensor_3d": (pointer, [pointer, ctypes.c_int, whole, whole, whole]),
        "ggml_mul_mat": (pointer, [pointer, pointer, pointer]),
        "ggml_mul_mat_id": (pointer, [pointer, pointer, pointer, pointer]),
        "ggml_set_name": (pointer, [pointer, ctypes.c_char_p]),
        "ggml_get_name": (pointer, [pointer]),
        "ggml_get_data": (pointer, [pointer]),
        "ggml_op_desc": (ctypes.c_char_p, [pointer]),
        "ggml_tensor_overhead": (ctypes.c_size_t, []),
        "ggml_nbytes": (ctypes.c_size_t, [pointer]),
        "ggml_backend_buffer_is_host": (ctypes.c_bool, [pointer]),
        "ggml_backend_tensor_get": (None, [pointer, pointer, ctypes.c_size_t, ctypes.c_size_t]),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise _other(f"no {name}") from error
        function.restype, function.argtypes = result, arguments
    return library


def _checked(library: Any, context: int) -> Layout:
    """Make a few tensors and see that every field that is read later holds what the library was told."""
    weight, experts, rows, columns = (
        library.ggml_new_tensor_3d(context, F32, *shape)
        for shape in ((4, 3, 1), (4, 3, 2), (4, 5, 1), (4, 1, 5))
    )
    ids = library.ggml_new_tensor_3d(context, _I32, 1, 5, 1)
    library.ggml_set_name(experts, b"blk.0.mirror.weight")
    product = library.ggml_mul_mat(context, weight, rows)
    by_expert = library.ggml_mul_mat_id(context, experts, columns, ids)
    found = {address: Tensor.from_address(address) for address in (weight, experts, ids, product, by_expert)}
    for address, tensor in found.items():
        if library.ggml_get_name(address) != address + Tensor.name.offset:
            raise _other("names at another place")
        if library.ggml_get_data(address) != tensor.data:
            raise _other("data at another place")
    mirrored, multiplied, routed = found[experts], found[product], found[by_expert]
    claims = {
        "sizes": (tuple(mirrored.ne), tuple(mirrored.nb)) == ((4, 3, 2, 1), (4, 16, 48, 96)),
        "types": (mirrored.type, found[ids].type) == (F32, _I32),
        "names": mirrored.name == b"blk.0.mirror.weight",
        "sources": tuple(multiplied.src[:3]) == (weight, rows, None),
        "sources of experts": tuple(routed.src[:3]) == (experts, columns, ids),
        "operations": (library.ggml_op_desc(product), library.ggml_op_desc(by_expert)) == (b"MUL_MAT", b"MUL_MAT_ID"),
        "kinds of operations": len({mirrored.op, multiplied.op, routed.op}) == 3 and mirrored.op == 0,
        "buffers": mirrored.buffer is None,
    }  # fmt: skip
    if wrong := [name for name, holds in claims.items() if not holds]:
        raise _other(f"other {', '.join(wrong)}")
    return Layout(multiplied.op, routed.op, library)


def _other(found: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        "this llama.cpp's tensors are laid out otherwise than edgekit knows them",
        found=found,
        expected="ggml_tensor as in llama-cpp-python 0.3.36",
        next_step="install that version: pip install 'llama-cpp-python==0.3.36'; or pass --imatrix with llama-imatrix's file",
    )
