"""The table of families: every cell from a run. ``make families`` writes checked.json and the README's table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import families
from edgekit.converters.gguf.checked import Checked
from edgekit.converters.text_model import open_model
from tests.benchmarks import pace
from tests.converters.cases import CASES
from tests.converters.oracles import Case, add_lora, assert_same_answers, make, to_gguf
from tests.converters.test_peer_converter import ACCEPTED, REFUSED

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "converters" / "gguf" / "checked.json"
BEGIN, END = "<!-- families: made by `make families` -->", "<!-- /families -->"
REAL, TRAINED = "published", "stand-in"
TOKENIZERS = {
    "llama": ("Llama 3 BPE", REAL), "tinyllama": ("SentencePiece", REAL), "smollm2": ("SmolLM BPE", TRAINED),
    "mistral": ("SentencePiece", REAL), "mistral-nemo": ("Tekken", TRAINED), "qwen": ("Qwen2 BPE", TRAINED),
    "granite": ("StarCoder BPE", REAL), "olmo2": ("cl100k BPE", TRAINED), "smollm3": ("Llama 3 BPE", REAL),
    "gemma": ("SentencePiece BPE", TRAINED), "gemma-4": ("Gemma 4's BPE", TRAINED), "phi-3": ("SentencePiece", REAL),
    "phi-4-mini": ("o200k BPE", TRAINED), "phi-4": ("cl100k BPE", TRAINED), "stablelm": ("cl100k BPE", TRAINED),
    "gpt-2": ("GPT-2 BPE", REAL), "mixtral": ("SentencePiece", REAL), "lfm2": ("LFM2 BPE", TRAINED),
    "qwen3.5": ("Qwen3.5 BPE", TRAINED),
}  # fmt: skip
"""By the beginning of a case's name: the tokenizer that such models come with, and whether a published one of its
kind was at hand to compare ids with, or one trained with the same structure."""
TOKENIZER_TESTS = ("bpe", "spm", "unigram", "ranks", "real_tokenizers", "sentencepiece")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, help="Just these cases, printed and not written.")
def main(only: tuple[str, ...]) -> None:
    """Check and time every family, and write the table."""
    tokenizers, peers = tokenizers_pass(), peer_results()
    rows = []
    with tempfile.TemporaryDirectory() as beside:
        llama = pace.llama(Path(beside))
        for name, case in CASES.items():
            if only and name not in only:
                continue
            with tempfile.TemporaryDirectory() as folder:
                rows.append(check(name, case, Path(folder), peers, llama))
            if not tokenizers:
                rows[-1] = msgspec.structs.replace(rows[-1], tokenizer="not run")
            print(markdown([rows[-1]]).splitlines()[-1], flush=True)
    if not only:
        TABLE.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text().partition(BEGIN)
        readme.write_text(f"{before}{BEGIN}\n{markdown(rows)}\n{END}{rest.partition(END)[2]}")


def check(name: str, case: Case, folder: Path, peers: Mapping[str, str], llama: pace.Model) -> Checked:
    """One row."""
    model = make(case, folder / "base")
    vocab = model.config.get_text_config().vocab_size
    logits = assert_same_answers(to_gguf(folder / "base", folder / "base.gguf"), model, vocab)
    lora = None
    if case.lora:
        merged = add_lora(case, model, folder / "lora")
        lora = assert_same_answers(
            to_gguf(folder / "base", folder / "lora.gguf", adapter=folder / "lora"), merged, vocab
        )
    architecture = Checkpoint(folder / "base").config["architectures"][0]
    family = families.find(open_model(folder / "base").config, folder / "config.json")
    paces = pace.paces(case, llama, folder / "large")
    print(
        name, *(f"{preset}: {p.processor:.2f}, wall {p.wall:.2f}" for preset, p in paces.items()), flush=True
    )
    speeds = {preset: round(found.processor, 2) for preset, found in paces.items()}
    peer = peers.get(name, "")
    return Checked(name, architecture, family.ARCH, logits, lora, peer, speeds, tokenizer_of(name))


def tokenizer_of(name: str) -> str:
    """The longest beginning that is known."""
    kind, evidence = TOKENIZERS[max((key for key in TOKENIZERS if name.startswith(key)), key=len)]
    return f"{kind}: {evidence}"


def tokenizers_pass() -> bool:
    """Run the proofs of every kind of tokenizer, published ones included; False where those are not at hand."""
    files = [f"tests/converters/test_{name}.py" for name in TOKENIZER_TESTS]
    subprocess.run([sys.executable, "-m", "pytest", "-q", *files], cwd=ROOT, check=True)
    return "EDGEKIT_TEST_DATA" in os.environ


def peer_results() -> dict[str, str]:
    """Case -> how it compares with llama.cpp's converter; empty without EDGEKIT_LLAMA_CPP."""
    if "EDGEKIT_LLAMA_CPP" not in os.environ:
        return {}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "slow",
        "-rA",
        "-q",
        "tests/converters/test_peer_converter.py",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {
        case: result
        for result, case in re.findall(r"^(PASSED|FAILED) \S+\[([^\]]+)\]", done.stdout, re.MULTILINE)
    }
    return {case: peer_cell(case, result) for case, result in found.items()}


def peer_cell(case: str, result: str) -> str:
    """One comparison in words."""
    if result == "FAILED":
        return "differs"
    if case in REFUSED:
        return "it fails"
    keys = ", ".join(key.rpartition(".")[2] for key in ACCEPTED.get(case, {}))
    return f"same but {keys}" if keys else "same"


def markdown(rows: list[Checked]) -> str:
    """The README's table."""
    heading = f"speed {', '.join(pace.PAIRS)}"
    lines = [
        f"| model | convert | logits | text | LoRA | tokenizer | {heading} | llama.cpp's converter |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        lora = "-" if one.lora is None else f"{one.lora:.0e}"
        speeds = ", ".join(f"{ratio:.2f}" for ratio in one.speed.values())
        lines.append(
            f"| {one.model} | {one.gguf} | {one.logits:.0e} | same | {lora} | {one.tokenizer} | {speeds} | {one.converter or '-'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
