"""Which runtimes are installed, what they were built for, and the devices that they see; nothing is run on them."""

from __future__ import annotations

import ctypes
from importlib import metadata, util
from typing import Any, Final

from edgekit.errors import RuntimeUnavailableError
from edgekit.runtimes import _llamalib

_KINDS: Final = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}
"""ggml_backend_dev_type of ggml-backend.h."""


def installed(*, cuda_memory: bool = False) -> list[dict[str, Any]]:
    """Each as ``{"name", "version", "backends", "devices", "problem"}``; those that aren't installed are left out.

    ``cuda_memory`` also asks CUDA devices for theirs, which makes a context on each: NVML knows it without.
    """
    found = []
    if util.find_spec("llama_cpp"):
        found.append(_llama_cpp(cuda_memory))
    if util.find_spec("onnxruntime"):
        found.append(_onnxruntime())
    for name in ("gptqmodel", "vllm"):
        if util.find_spec(name):
            found.append({"name": name, "version": _version(name), "backends": ["CUDA"]})
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _llama_cpp(cuda_memory: bool) -> dict[str, Any]:
    about: dict[str, Any] = {"name": "llama.cpp", "version": _version("llama-cpp-python")}
    try:
        devices = llama_devices(cuda_memory=cuda_memory)
    except RuntimeUnavailableError as error:
        return about | {"problem": f"{error.what}: {error.found}"}
    return about | {"backends": sorted({one["backend"] for one in devices}), "devices": devices}


def _onnxruntime() -> dict[str, Any]:
    about: dict[str, Any] = {"name": "onnxruntime", "version": _version("onnxruntime")}
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        return about | {"problem": str(error)}
    return about | {"backends": list(onnxruntime.get_available_providers())}


def llama_devices(*, cuda_memory: bool = False) -> list[dict[str, Any]]:
    """The devices that llama.cpp was built for and finds, through its C API, memory in bytes.

    Raises ``RuntimeUnavailableError`` where llama-cpp-python doesn't load.
    """
    lib = _library()
    found = []
    for index in range(lib.ggml_backend_dev_count()):
        device = lib.ggml_backend_dev_get(index)
        backend = _text(lib.ggml_backend_reg_name(lib.ggml_backend_dev_backend_reg(device)))
        one: dict[str, Any] = {
            "name": _text(lib.ggml_backend_dev_name(device)),
            "kind": _KINDS.get(lib.ggml_backend_dev_type(device), "accel"),
            "backend": backend,
            "description": _text(lib.ggml_backend_dev_description(device)),
        }
        if one["kind"] in ("gpu", "igpu") and (cuda_memory or backend != "CUDA"):
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            one |= {"free": free.value, "total": total.value}
        found.append(one)
    return found


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")


def _library() -> Any:
    """ggml's functions through libllama, whose dependencies they are."""
    lib: Any = ctypes.CDLL(_llamalib.load()._lib._name)
    try:
        lib.ggml_backend_dev_count.restype = ctypes.c_size_t
        lib.ggml_backend_dev_get.argtypes, lib.ggml_backend_dev_get.restype = (
            [ctypes.c_size_t],
            ctypes.c_void_p,
        )
        lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
        lib.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
        lib.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
        for name in ("dev_name", "dev_description", "reg_name"):
            function = getattr(lib, f"ggml_backend_{name}")
            function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_char_p
        lib.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p] * 3
        lib.ggml_backend_dev_memory.restype = None
    except AttributeError as error:
        raise RuntimeUnavailableError(
            "llama.cpp can't list its devices",
            found=str(error),
            next_step="pip install --upgrade llama-cpp-python",
        ) from error
    return lib
