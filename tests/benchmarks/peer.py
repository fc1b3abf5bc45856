"""The peer path, each step in a process of its own: PEFT merge, llama.cpp's converter, llama.cpp's quantizer.

``python -m tests.benchmarks.peer merge|convert|quantize …``
"""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

NEEDED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
QUANTIZATIONS = {"Q4_K_M": "MOSTLY_Q4_K_M", "Q8_0": "MOSTLY_Q8_0"}


def fetch(folder: Path) -> Path:
    """llama.cpp's converter from the sdist of the installed llama-cpp-python, and what it imports."""
    if not (folder / "lib").exists():
        target = ["install", "--target", str(folder / "lib"), "sentencepiece", "protobuf"]
        subprocess.run([*PIP, *target], check=True)
    return _sources(folder, "llama.cpp", NEEDED)


def fetch_all(folder: Path) -> Path:
    """All of its llama.cpp, to build a server from."""
    return _sources(folder, "llama.cpp-whole", ("",))


def _sources(folder: Path, name: str, wanted: tuple[str, ...]) -> Path:
    package = f"llama-cpp-python=={version('llama-cpp-python')}"
    source = folder / package.replace("==", "-") / name
    if not source.exists():
        print(f"fetching the sdist of {package} for its llama.cpp …", file=sys.stderr)
        download = ["download", "--no-deps", "--no-binary", "llama-cpp-python", package, "-d", str(folder)]
        subprocess.run([*PIP, *download], check=True)
        archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
        _unpack(archive, source, wanted)
        archive.unlink()
    return source


def _unpack(archive: Path, target: Path, wanted: tuple[str, ...]) -> None:
    """What begins so, out of llama.cpp's folder."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, found, inner = member.name.partition("/vendor/llama.cpp/")
            if found and inner.startswith(wanted):
                member.name = inner
                tar.extract(member, target, filter="data")


def merge(base: str, adapter: str, out: str, threads: int) -> None:
    """PEFT's merge_and_unload in the checkpoint's own 16 bits, saved as a checkpoint again."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)


def convert(source: str, checkpoint: str, out: str) -> None:
    """convert_hf_to_gguf.py, told the pre-tokenizer: it refuses a tokenizer whose hash it doesn't know."""
    sys.path[:0] = [source, str(Path(source) / "gguf-py")]
    base = importlib.import_module("conversion.base")
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "llama-bpe"
    script = str(Path(source) / "convert_hf_to_gguf.py")
    sys.argv = [script, checkpoint, "--outfile", out, "--outtype", "bf16"]
    runpy.run_path(script, run_name="__main__")


def quantize(source: str, out: str, kind: str, threads: int) -> None:
    """llama_model_quantize."""
    from llama_cpp import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{QUANTIZATIONS[kind]}")
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(out), params):
        raise SystemExit("llama_model_quantize failed")


def main() -> None:
    """One step."""
    match sys.argv[1:]:
        case ["merge", base, adapter, out, threads]:
            merge(base, adapter, out, int(threads))
        case ["convert", source, checkpoint, out]:
            convert(source, checkpoint, out)
        case ["quantize", source, out, kind, threads]:
            quantize(source, out, kind, int(threads))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
