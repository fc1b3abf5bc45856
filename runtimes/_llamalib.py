"""llama.cpp's shared library: loaded on first use, its logging kept for error messages instead of printed."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from edgekit.errors import RuntimeUnavailableError

# ggml.h's levels; llama-cpp-python's own logger has an older numbering.
_WARN: Final = 3
_ERROR: Final = 4
_CONTINUED: Final = 5

_lines: deque[str] = deque(maxlen=6)
_keeping = False


def _keep(level: int, text: bytes | None, _data: object) -> None:
    """Remember warnings and errors; a continuation belongs to the line before it."""
    global _keeping
    if level == _CONTINUED:
        if _keeping and _lines and text:
            _lines[-1] += text.decode("utf-8", "replace")
        return
    _keeping = level in (_WARN, _ERROR)
    if _keeping and text:
        _lines.append(text.decode("utf-8", "replace"))


def clear_log() -> None:
    """Forget what was logged so far."""
    _lines.clear()


def last_log() -> str:
    """llama.cpp's last warnings and errors, one line."""
    return "; ".join(line.strip() for line in _lines if line.strip())


@cache
def load() -> Any:
    """The module of low-level bindings, its backend started.

    Raises ``RuntimeUnavailableError`` when llama-cpp-python is missing or its library doesn't load.
    """
    try:
        from llama_cpp import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeUnavailableError(
            "llama.cpp is not available",
            found=str(error),
            next_step="pip install 'edgekit[llamacpp]'",
        ) from error
    callback = llama_cpp.llama_log_callback(_keep)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp._edgekit_log_callback = callback  # the library calls it as long as it is loaded
    llama_cpp.llama_backend_init()
    return llama_cpp


@cache
def has_amx() -> bool:
    """Whether this build of llama.cpp uses Intel's AMX instructions; see ``_amx`` for whether they work."""
    info: bytes = load().llama_print_system_info()
    return b"AMX_INT8 = 1" in info


@cache
def logits_address() -> Callable[[int | None, int], int]:
    """``llama_get_logits_ith``, as an address: a ctypes pointer object per token would cost microseconds."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
    function: Any = prototype(ctypes.cast(load().llama_get_logits_ith, ctypes.c_void_p).value or 0)
    return function  # type: ignore[no-any-return]
