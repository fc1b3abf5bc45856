"""Whether llama.cpp's code for Intel's AMX instructions works in this build: tried out once, in a process of its own.

GCC 12 compiles it to code that faults: its ``_tile_loadconfig`` tells the optimizer that 8 of the 64 bytes of the tile
configuration are read, so the rest is never written. ``-fno-dse`` leaves them in.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.caches import recall, remember
from edgekit.runtimes import _llamalib

SIZE: Final = 64
"""Width of every matrix of the trial model; AMX takes rows by 32."""
TOKENS: Final = 32
SECONDS: Final = 120


@cache
def works() -> bool:
    """The verdict for the loaded library, kept in the user's cache folder by the library's size and date."""
    name = _name()
    kept = recall(name)
    if isinstance(kept, dict) and isinstance(kept.get("works"), bool):
        return bool(kept["works"])
    verdict = _try()
    remember(name, {"works": verdict})  # a cache that can't be written costs a second next time
    return verdict


def _name() -> str:
    library = Path(_llamalib.load()._lib._name)
    parts = [
        f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}"
        for path in sorted({library, *library.parent.glob("*ggml*")})
    ]
    return f"amx-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"


def _try() -> bool:
    """Run the trial; a crash, a hang or other logits than without AMX mean no."""
    # The executable of a frozen application is the application: it would start itself again and again.
    if getattr(sys, "frozen", False):
        return False
    command = [sys.executable, "-P", "-m", "edgekit.runtimes._amx"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def main() -> int:
    """The trial: 0 if a tiny model gives the same logits with and without AMX."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "trial.gguf"
        _write(path)
        plain, amx = _logits(path, extra=False), _logits(path, extra=True)
    return 0 if np.abs(plain - amx).max() <= 0.02 * np.abs(plain).max() else 1


def _write(path: Path) -> None:
    """One Llama layer of random weights in Q8_0."""
    import gguf

    random = np.random.default_rng(0)
    writer: Any = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(TOKENS)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(1)
    writer.add_feed_forward_length(SIZE)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(SIZE)
    writer.add_tokenizer_model("no_vocab")
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names = ["token_embd", "output", *(f"blk.0.{name}" for name in matrices)]
    kind = gguf.GGMLQuantizationType.Q8_0
    for name in names:
        weights = random.normal(size=(SIZE, SIZE)).astype(np.float32) / 4
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(SIZE, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _logits(path: Path, *, extra: bool) -> NDArray[np.float32]:
    """Logits after a few dozen tokens."""
    lib = _llamalib.load()
    params = lib.llama_model_default_params()
    params.n_gpu_layers, params.use_extra_bufts = 0, extra
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = TOKENS
    params.n_threads = params.n_threads_batch = 1
    context = lib.llama_init_from_model(model, params)
    tokens = (lib.llama_token * TOKENS)(*range(TOKENS))
    if lib.llama_decode(context, lib.llama_batch_get_one(tokens, TOKENS)):
        raise RuntimeError("llama_decode failed")
    found: NDArray[np.float32] = np.ctypeslib.as_array(lib.llama_get_logits(context), (SIZE,)).copy()
    lib.llama_free(context)
    lib.llama_model_free(model)
    return found


if __name__ == "__main__":
    sys.exit(main())
