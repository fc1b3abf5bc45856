"""llama.cpp's own pool of threads, kept from call to call where its library was built without OpenMP."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

from edgekit.runtimes import _llamalib

_MOST: Final = 512
"""GGML_MAX_N_THREADS of ggml.h."""
_POLL: Final = 2
"""How long a thread spins before it sleeps, in ggml's unit: a few milliseconds, longer than the pause between steps."""


class _Params(ctypes.Structure):
    """ggml_threadpool_params of ggml.h."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * _MOST),
        ("n_threads", ctypes.c_int),
        ("priority", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


@cache
def has_openmp() -> bool:
    """Whether this build of llama.cpp leaves its threads to OpenMP.

    libgomp keeps a pool for every thread that calls it, and lets waiting threads sleep at once when there are more
    threads than CPUs: with all cores in use, decoding from any but the main thread takes three times as long.
    """
    info: bytes = _llamalib.load().llama_print_system_info()
    return b"OPENMP = 1" in info


class ThreadPool:
    """Threads for one context; freed after it."""

    def __init__(self, context: int, threads: int) -> None:
        self._lib = _library()
        self._pool = None
        if self._lib is None or has_openmp() or threads < 2:
            return
        params = _Params()
        self._lib.ggml_threadpool_params_init(ctypes.byref(params), threads)
        params.poll = _POLL
        self._pool = self._lib.ggml_threadpool_new(ctypes.byref(params))
        self._lib.llama_attach_threadpool(context, self._pool, self._pool)

    def close(self) -> None:
        """End the threads; the context must be gone."""
        if self._pool is not None and self._lib is not None:
            self._lib.ggml_threadpool_free(self._pool)
        self._pool = None


@cache
def _library() -> Any:
    """ggml's functions, which llama-cpp-python has no bindings for; None where libllama doesn't lead to them.

    Found through libllama, whose dependencies they are: a wheel holds copies of a library under each of its names, and
    a thread that runs another copy's code would find its tables empty.
    """
    lib: Any = ctypes.CDLL(_llamalib.load()._lib._name)
    try:
        lib.ggml_threadpool_params_init.argtypes = [ctypes.c_void_p, ctypes.c_int]
        lib.ggml_threadpool_params_init.restype = None
        lib.ggml_threadpool_new.argtypes, lib.ggml_threadpool_new.restype = [ctypes.c_void_p], ctypes.c_void_p
        lib.ggml_threadpool_free.argtypes, lib.ggml_threadpool_free.restype = [ctypes.c_void_p], None
        lib.llama_attach_threadpool.argtypes = [ctypes.c_void_p] * 3
        lib.llama_attach_threadpool.restype = None
    except AttributeError:
        return None
    return lib
