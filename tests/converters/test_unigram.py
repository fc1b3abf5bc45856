"""Unigram from tokenizer.json or tokenizer.model, with SentencePiece's compiled normalization."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from edgekit.converters.gguf import probes
from edgekit.errors import EdgekitError, InputError, UnsupportedModelError
from tests import vocabularies
from tests.converters.test_spm import Change, added

SPECIALS = ["<pad>", "</s>", "<unk>"]
BLANKS = ["\n", "\t", "\r", "\u00a0", "\u3000", "\u2028"]
META = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": False}


def charsmap(rules: dict[str, str]) -> bytes:
    """SentencePiece's precompiled_charsmap: a double array over UTF-8 bytes, then the texts it leads to."""
    texts = b"".join(text.encode() + b"\0" for text in dict.fromkeys(rules.values()))
    at = {text: texts.index(text.encode() + b"\0") for text in rules.values()}
    units: dict[int, int] = {0: 0}
    taken = {0}

    def place(node: int, entries: dict[bytes, str]) -> None:
        """Give a node's children slots that are free; byte 0 is the leaf."""
        heads = sorted({key[:1] or b"\0" for key in entries})
        offset = next(o for o in range(1, 1 << 16) if not taken & {node ^ o ^ head[0] for head in heads})
        units[node] |= offset << 10
        taken.update(node ^ offset ^ head[0] for head in heads)
        for head in heads:
            child = node ^ offset ^ head[0]
            if head == b"\0":
                units[node] |= 1 << 8
                units[child] = 1 << 31 | at[entries[b""]]
                continue
            units[child] = head[0]
            place(child, {key[1:]: text for key, text in entries.items() if key[:1] == head})

    place(0, {key.encode(): text for key, text in rules.items()})
    array = struct.pack(f"<{max(taken) + 257}I", *[units.get(i, 0) for i in range(max(taken) + 257)])
    return struct.pack("<I", len(array)) + array + texts


RULES = {blank: " " for blank in BLANKS} | {"ﬁ": "fi", "①": "1", "½": "1⁄2"}


def trained() -> dict[str, Any]:
    """A T5-like tokenizer.json whose pieces tokenizers trained."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator([text for text in probes.texts([]) if "\ufeff" not in text] * 3, trainer)
    content: dict[str, Any] = json.loads(made.to_str())
    # As SentencePiece keeps them: in 32 bits; and no two alike, so that there is one best way to split a text.
    vocab = content["model"]["vocab"]
    scores = [struct.unpack("<f", struct.pack("<f", s - i / 1000))[0] for i, (_, s) in enumerate(vocab)]
    content["model"]["vocab"] = [[piece, score] for (piece, _), score in zip(vocab, scores, strict=True)]
    encoded = base64.b64encode(charsmap(RULES)).decode()
    steps = [
        {"type": "Precompiled", "precompiled_charsmap": encoded},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]
    content |= {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": META}
    content["added_tokens"] = [added(i, text) for i, text in enumerate(SPECIALS)]
    return content


def write(folder: Path, content: dict[str, Any]) -> int:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return len(content["model"]["vocab"]) + 4


def test_the_made_charsmap_does_what_it_says() -> None:
    from tokenizers import normalizers

    normalizer = normalizers.Precompiled(charsmap(RULES))
    assert normalizer.normalize_str("a\n①\u3000ﬁn ½é") == "a 1 fin 1⁄2é"


def test_unigram_json_is_proved(tmp_path: Path) -> None:
    vocabulary = vocabularies.read(tmp_path, write(tmp_path, trained()), eos_token_id=1)
    assert vocabulary.model == "t5" and vocabulary.ids == {"eos": 1, "unknown": 2}
    assert vocabulary.flags == {"add_space_prefix": True, "remove_extra_whitespaces": True}
    assert vocabulary.add == {"bos": False, "eos": False}
    assert vocabulary.types[2] == TokenType.UNKNOWN and vocabulary.types[-1] == TokenType.UNUSED
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None


def test_a_wrong_score_is_caught(tmp_path: Path) -> None:
    from dataclasses import replace

    vocabulary = vocabularies.read(tmp_path, write(tmp_path, trained()))
    wrong = replace(vocabulary, scores=[-1.0] * len(vocabulary.scores))
    assert vocabularies.prove(wrong, tmp_path, tmp_path).mismatches > 5


def protobuf(content: dict[str, Any], merge_spaces: bool, extra: bytes = b"") -> bytes:
    def field(number: int, data: bytes) -> bytes:
        size, length = len(data), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    out = b""
    for index, (piece, score) in enumerate(content["model"]["vocab"]):
        kind = {0: 3, 1: 3, 2: 2}.get(index, 1)
        out += field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
    numbers = b"\xc0\x02\x02" + b"\xc8\x02" + b"\xff" * 9 + b"\x01" + b"\xd0\x02\x01" + b"\xd8\x02\x00"
    normalizer = field(2, charsmap(RULES)) + bytes([3 << 3, 1, 4 << 3, merge_spaces])
    return out + field(2, bytes([3 << 3, 1]) + numbers + extra) + field(3, normalizer)


def test_unigram_model_is_proved(tmp_path: Path) -> None:
    content = trained()
    (tmp_path / "tokenizer.model").write_bytes(protobuf(content, True))
    vocabulary = vocabularies.read(tmp_path, len(content["model"]["vocab"]))
    assert vocabulary.model == "t5" and vocabulary.ids == {"eos": 1, "unknown": 2, "padding": 0}
    assert vocabulary.flags == {"add_space_prefix": True, "remove_extra_whitespaces": True}
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None


def test_spaces_that_llama_cpp_counts_otherwise_are_caught(tmp_path: Path) -> None:
    """With a prefix and without merging spaces, llama.cpp puts none before a text that is only spaces."""
    content = trained()
    (tmp_path / "tokenizer.model").write_bytes(protobuf(content, False))
    vocabulary = vocabularies.read(tmp_path, len(content["model"]["vocab"]))
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is not None


@pytest.mark.parametrize(
    ("change", "error", "found"),
    [
        (lambda c: c["model"].update(byte_fallback=True), UnsupportedModelError, "byte_fallback"),
        (lambda c: c["model"].update(unk_id=None), InputError, "out of range"),
        (lambda c: c["normalizer"]["normalizers"][0].update(precompiled_charsmap="?"), InputError, "base64"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), UnsupportedModelError, "Lowercase"),
        (
            lambda c: c.update(pre_tokenizer=META | {"prepend_scheme": "first"}),
            UnsupportedModelError,
            "first",
        ),
        (lambda c: c.update(pre_tokenizer={"type": "Digits"}), UnsupportedModelError, "Digits"),
    ],
)
def test_unsound_or_unsupported(
    tmp_path: Path, change: Change, error: type[EdgekitError], found: str
) -> None:
    content = trained()
    change(content)
    size = write(tmp_path, content)
    with pytest.raises(error) as caught:
        vocabularies.read(tmp_path, size)
    assert found in str(caught.value.found)


@pytest.mark.parametrize(
    ("extra", "found"), [(b"\x98\x02\x01", "byte_fallback"), (b"\xc0\x01\x01", "suffix True")]
)
def test_unsupported_model(tmp_path: Path, extra: bytes, found: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(protobuf(trained(), True, extra))
    with pytest.raises(UnsupportedModelError) as caught:
        vocabularies.read(tmp_path, 700)
    assert found in str(caught.value.found)
