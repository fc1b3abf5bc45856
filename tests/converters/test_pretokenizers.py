"""Pre-tokenizers: each one found by its structure, proved against tokenizers, and refused by the step that isn't known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgekit.converters.gguf import pretokenizers, probes, tokenizers
from edgekit.errors import InputError, UnsupportedModelError
from tests import vocabularies
from tests.benchmarks.make_model import SPECIALS
from tests.converters.test_bpe import Change, changed, prove, read
from tests.models import llama_config, llama_weights, save, write_sidecars

STRUCTURES = {
    names[ignores]: (structure, ignores)
    for structure, names in pretokenizers._KNOWN.items()
    for ignores in names
}


def trained(structure: tuple[Any, ...], ignore_merges: bool, texts: list[str]) -> dict[str, Any]:
    """A tokenizer that tokenizers itself trained on the probes, with a given pre-tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    steps: list[Any] = []
    for kind, value in structure:
        if kind == "Split":
            steps.append(pre_tokenizers.Split(Regex(value), "isolated"))
        elif kind == "Digits":
            steps.append(pre_tokenizers.Digits(individual_digits=value))
        elif kind == "Punctuation":
            steps.append(pre_tokenizers.Punctuation("contiguous"))
        else:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=value))
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts * 20, trainer)
    made.add_tokens(["<tool>", "  wide", "Ünïcode"])
    content: dict[str, Any] = json.loads(made.to_str())
    content["model"]["ignore_merges"] = ignore_merges
    return content


O200K = pretokenizers._O200K
ADDED = [*SPECIALS, "<tool>", "  wide", "Ünïcode"]


def write_trained(folder: Path, name: str) -> dict[str, Any]:
    """A checkpoint with a trained tokenizer; returns its config."""
    content = trained(*STRUCTURES[name], probes.texts([]))
    config = llama_config(vocab_size=len(content["model"]["vocab"]) + 3)
    write_sidecars(folder, config)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    save(folder / "model.safetensors", llama_weights(config))
    return config


@pytest.mark.parametrize("name", STRUCTURES)
def test_each_known_pre_tokenizer_is_found_and_proved(tmp_path: Path, name: str) -> None:
    config = write_trained(tmp_path, name)
    vocabulary = tokenizers.read(tmp_path, config, config["vocab_size"])
    assert vocabulary.pre == {"gpt-4o": O200K}.get(name, name)
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None


@pytest.mark.parametrize(
    ("name", "touched"), [("tekken", "हिन्दी"), ("tekken", "MÜNCHEN"), (O200K, "ПриветМир éAb")]
)
def test_what_llama_cpp_does_otherwise_is_noted_and_real(tmp_path: Path, name: str, touched: str) -> None:
    config = write_trained(tmp_path, name)
    vocabulary = tokenizers.read(tmp_path, config, config["vocab_size"])
    assert any(limit.touches(touched) and name in limit.note for limit in vocabulary.limits)
    assert not any(
        limit.touches("München liegt an der Isar, Сочи у моря; 在apple工作") for limit in vocabulary.limits
    )
    kept = "".join(probes.of(vocabulary))
    assert touched.split()[0] not in kept and "München" in kept
    whole = vocabularies.prove(vocabulary, tmp_path, tmp_path, more=probes.texts([]))
    assert whole.mismatch is not None  # else the note were false


def test_gpt_4o_keeps_its_name_where_merges_matter(tmp_path: Path) -> None:
    config = write_trained(tmp_path, O200K)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["ignore_merges"] = False
    path.write_text(json.dumps(content))
    assert tokenizers.read(tmp_path, config, config["vocab_size"]).pre == O200K
    del content["model"]["merges"][-1]
    path.write_text(json.dumps(content))
    vocabulary = tokenizers.read(tmp_path, config, config["vocab_size"])
    assert vocabulary.pre == "gpt-4o" and "combining marks" in vocabulary.notes[0]
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None


def test_nfc_is_noted(tmp_path: Path) -> None:
    config = write_trained(tmp_path, "qwen2")
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": "NFC"}}))
    vocabulary = tokenizers.read(tmp_path, config, config["vocab_size"])
    assert vocabulary.pre == "qwen2" and "NFC" in vocabulary.notes[0]
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path, more=["e\u0301"]).mismatches == 1


@pytest.mark.parametrize(("plain", "named"), [("gpt-2", "olmo"), ("smollm", "command-r")])
def test_nfc_names(tmp_path: Path, plain: str, named: str) -> None:
    config = write_trained(tmp_path, plain)
    path = tmp_path / "tokenizer.json"
    nfc = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": nfc}))
    vocabulary = tokenizers.read(tmp_path, config, config["vocab_size"])
    assert vocabulary.pre == named
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None


@pytest.mark.parametrize(("side", "text"), [("lstrip", " <tool>"), ("rstrip", "<tool>\n")])
def test_a_token_that_swallows_spaces_is_noted(tmp_path: Path, side: str, text: str) -> None:
    config = write_trained(tmp_path, "qwen2")
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    next(token for token in content["added_tokens"] if token["content"] == "<tool>")[side] = True
    path.write_text(json.dumps(content))
    vocabulary = tokenizers.read(tmp_path, config, config["vocab_size"])
    assert vocabulary.notes == (
        "llama.cpp keeps spaces and line ends beside <tool>, which the tokenizer swallows",
    )
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path, more=[text]).mismatches == 1
    (tmp_path / "chat_template.jinja").write_text(text.replace("\n", r"\n"))
    with pytest.raises(InputError, match="chat template has spaces"):
        tokenizers.read(tmp_path, config, config["vocab_size"])


SPELLINGS = {
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        "smaug-bpe",
    ),
    "removed": (pretokenizers.QWEN_2, "qwen2"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_other_spellings_of_a_pattern_are_found_and_proved(tmp_path: Path, name: str) -> None:
    pattern, pre = SPELLINGS[name]
    config = write_trained(tmp_path, pre)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    split = content["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"] = {"Regex": pattern}
    if name == "removed":
        split |= {"behavior": "Removed", "invert": True}
    path.write_text(json.dumps(content))
    vocabulary = tokenizers.read(tmp_path, config, config["vocab_size"])
    assert vocabulary.pre == pre
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda c: c["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="x+"),
            r"step 1 of 2, Split: x\+",
        ),
        (
            lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
            "step 2 of 2, ByteLevel",
        ),
        (lambda c: c["pre_tokenizer"]["pretokenizers"].reverse(), "ByteLevel: False; Split"),
        (
            lambda c: c["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "BertPreTokenizer"}),
            "step 1 of 3, Bert",
        ),
        (lambda c: c.update(normalizer={"type": "Strip", "left": True}), "Strip"),
    ],
)
def test_a_refusal_says_which_step_is_not_understood(tmp_path: Path, change: Change, found: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        read(changed(tmp_path, change))
    assert re.search(found, str(caught.value.found))


def test_a_wrong_pre_tokenizer_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof must be able to fail: GPT-2's splitting where Llama 3's was trained."""
    write_trained(tmp_path, "llama-bpe")
    monkeypatch.setattr(pretokenizers, "find", lambda *_: "gpt-2")
    proved = prove(tmp_path, probes.texts(ADDED))
    assert proved.mismatch is not None and proved.mismatches > 1
