"""SentencePiece BPE from tokenizer.json or tokenizer.model: proved against tokenizers and llama.cpp's own expectations."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from hypothesis import given
from hypothesis import strategies as st

from edgekit.converters.gguf import probes, sentencepiece
from edgekit.errors import EdgekitError, InputError, UnsupportedModelError
from tests import vocabularies

SPACE = "\u2581"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIALS = ["<unk>", "<s>", "</s>"]
PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
GEMMA_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def added(index: int, content: str, **changes: Any) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": content, **plain, **changes}


def trained(normalizer: Any, pre_tokenizer: Any = None) -> dict[str, Any]:
    """A tokenizer.json with byte fallback, its merges trained by tokenizers on the probes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=1100, special_tokens=[*SPECIALS, *BYTES], show_progress=False)
    made.train_from_iterator([text for text in probes.texts([]) if "\ufeff" not in text] * 3, trainer)
    content: dict[str, Any] = json.loads(made.to_str())
    content["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    content["added_tokens"] = [added(i, text) for i, text in enumerate(SPECIALS)]
    return content | {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": None}


def llama() -> dict[str, Any]:
    content = trained({"type": "Sequence", "normalizers": [PREPEND, REPLACE]})
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    tokens = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    content["post_processor"] = {
        "type": "TemplateProcessing", "single": template, "pair": template, "special_tokens": tokens
    }  # fmt: skip
    size = len(content["model"]["vocab"])
    content["added_tokens"] += [added(size, "[INST]"), added(size + 1, "<tool>", special=False)]
    return content


def write(folder: Path, content: dict[str, Any]) -> int:
    """Write it; returns a size with some rows of padding."""
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return int(max(*content["model"]["vocab"].values(), *[t["id"] for t in content["added_tokens"]])) + 9


def protobuf(content: dict[str, Any], prefix: bool = True, **spec: bytes) -> bytes:
    """The tokenizer.model that a tokenizer.json may come from: scores by rank, types by name."""

    def field(number: int, data: bytes) -> bytes:
        size = len(data)
        length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
        return bytes([number << 3 | 2]) + length + data

    ranks: dict[str, float] = {}
    for left, right in content["model"]["merges"]:
        ranks.setdefault(left + right, -float(len(ranks)))
    out = b""
    for piece, index in sorted(content["model"]["vocab"].items(), key=lambda item: item[1]):
        kind = 2 if piece == "<unk>" else 3 if piece in SPECIALS else 6 if piece in BYTES else 1
        score = struct.pack("<f", ranks.get(piece, 0.0 if index < 259 else -1e4))
        out += field(
            1, field(1, piece.encode()) + b"\x15" + score + (bytes([0x18, kind]) if kind != 1 else b"")
        )
    normalizer = bytes([3 << 3, prefix, 4 << 3, 0]) + spec.get("normalizer", b"")
    trainer = bytes([3 << 3, 2]) + b"\x98\x02\x01" + spec.get("trainer", b"")
    return out + field(2, trainer) + field(3, normalizer)


def test_llama_tokenizer_json_is_proved(tmp_path: Path) -> None:
    size = write(tmp_path, llama())
    vocabulary = vocabularies.read(tmp_path, size, eos_token_id=2)
    assert (vocabulary.model, vocabulary.flags, vocabulary.notes) == ("llama", {}, ())
    assert vocabulary.ids == {"eos": 2, "bos": 1, "unknown": 0} and vocabulary.add == {"bos": True}
    kinds = [vocabulary.types[i] for i in (0, 1, 3, 300, size - 9, size - 1)]
    T = TokenType
    assert kinds == [T.UNKNOWN, T.CONTROL, T.BYTE, T.NORMAL, T.USER_DEFINED, T.UNUSED]
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None


def test_a_wrong_prefix_or_score_is_caught(tmp_path: Path) -> None:
    from dataclasses import replace

    vocabulary = vocabularies.read(tmp_path, write(tmp_path, llama()))
    wrong = replace(vocabulary, flags={"add_space_prefix": False})
    assert vocabularies.prove(wrong, tmp_path, tmp_path).mismatches > 10
    wrong = replace(vocabulary, scores=[-score for score in vocabulary.scores])
    assert vocabularies.prove(wrong, tmp_path, tmp_path).mismatches > 10


def test_gemma_tokenizer_json_is_proved(tmp_path: Path) -> None:
    content = trained(REPLACE, GEMMA_SPLIT)
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    runs = [SPACE * 2, SPACE * 3, SPACE * 4]
    for run in runs:  # Gemma's merges make runs of spaces before anything else
        vocab[run] = len(vocab)
    content["model"]["merges"] = [[SPACE, SPACE], [SPACE * 2, SPACE], [SPACE * 2, SPACE * 2], *merges]
    content["added_tokens"] += [added(vocab[run], run, special=False) for run in runs]
    for text in ("\n\n", "<table>"):
        vocab.setdefault(text, len(vocab))
        content["added_tokens"].append(added(vocab[text], text, special=False))
    vocabulary = vocabularies.read(tmp_path, write(tmp_path, content))
    assert vocabulary.flags == {"add_space_prefix": False}
    assert vocabulary.tokens[vocab[SPACE * 2]] == SPACE * 2
    assert vocabulary.types[vocab["\n\n"]] == TokenType.USER_DEFINED
    more = ["a  b   c    d\n\n\ne", f"a{SPACE}{SPACE}b"]
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path, more=more).mismatch is None


@pytest.mark.parametrize("scheme", ["never", "first"])
def test_metaspace_is_proved(tmp_path: Path, scheme: str) -> None:
    meta = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
    content = trained(None, meta)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    vocabulary = vocabularies.read(tmp_path, write(tmp_path, content))
    assert vocabulary.flags == {"add_space_prefix": False}
    assert bool(vocabulary.notes) == (scheme == "first")
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None
    plain = vocabularies.prove(vocabulary, tmp_path, tmp_path, more=["The quick"])
    assert plain.mismatches == (scheme == "first")  # what the note says


def test_tokenizer_model_is_read_and_proved(tmp_path: Path) -> None:
    content = llama()
    size = write(tmp_path, content)
    by_json = vocabularies.read(tmp_path, size)
    (tmp_path / "tokenizer.model").write_bytes(protobuf(content))
    by_both = vocabularies.read(tmp_path, size)
    assert by_both.file == "tokenizer.json" and by_both.scores[800] == by_json.scores[800] < 0
    (tmp_path / "tokenizer.json").unlink()
    decoder = {str(t["id"]): t for t in content["added_tokens"]}
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[INST]": size - 10, "<more>": size - 8}))
    config = {"added_tokens_decoder": decoder, "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    alone = vocabularies.read(tmp_path, size)
    assert alone.file == "tokenizer.model" and alone.add == {"bos": False, "eos": False}
    assert alone.ids == {"unknown": 0, "bos": 1, "eos": 2}
    assert alone.tokens[size - 8] == "<more>" and alone.types[size - 8] == TokenType.USER_DEFINED
    keep = slice(0, size - 9)
    assert (alone.tokens[keep], alone.types[keep]) == (by_both.tokens[keep], by_both.types[keep])
    assert vocabularies.prove(alone, tmp_path, tmp_path).mismatch is None


def test_tokenizer_model_without_a_prefix(tmp_path: Path) -> None:
    content = trained(REPLACE)
    (tmp_path / "tokenizer.model").write_bytes(protobuf(content, prefix=False))
    vocabulary = vocabularies.read(tmp_path, len(content["model"]["vocab"]))
    assert vocabulary.flags == {"add_space_prefix": False}
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "error", "found"),
    [
        (lambda c: c["normalizer"]["normalizers"].append({"type": "NFKC"}), UnsupportedModelError, "NFKC"),
        (lambda c: c["normalizer"]["normalizers"].reverse(), UnsupportedModelError, "Prepend"),
        (lambda c: c.update(normalizer=None), UnsupportedModelError, "none"),
        (lambda c: c.update(normalizer={"type": "Sequence"}), InputError, "normalizers"),
        (lambda c: c.update(pre_tokenizer={"type": "Metaspace"}), UnsupportedModelError, "Metaspace"),
        (lambda c: c.update(pre_tokenizer={"type": "Digits"}), UnsupportedModelError, "Digits"),
        (lambda c: c["model"]["vocab"].pop("<0x0A>"), UnsupportedModelError, "<0x0A>"),
        (lambda c: c["model"].update(vocab=[["a"]]), InputError, "required"),
        (lambda c: c["model"]["vocab"].update(other=300), InputError, "'other' at 300"),
        (lambda c: c["added_tokens"][0].update(content="other"), InputError, "'other' at 0"),
        (
            lambda c: c.update(pre_tokenizer={"type": "Metaspace", "prepend_scheme": "first", "split": False},
                               normalizer=None, post_processor=None),
            UnsupportedModelError, "first",
        ),
    ],
)  # fmt: skip
def test_unsound_or_unsupported_json(
    tmp_path: Path, change: Change, error: type[EdgekitError], found: str
) -> None:
    content = llama()
    size = write(tmp_path, content)
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(error) as caught:
        vocabularies.read(tmp_path, size)
    assert found in str(caught.value.found) and caught.value.path == str(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("make", "error", "found"),
    [
        (lambda c: protobuf(c)[:-3], InputError, "beyond the end"),
        (lambda c: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", InputError, "wire type"),
        (lambda c: b"", InputError, "no pieces"),
        (lambda c: b"\x08" + b"\xff" * 12, InputError, "doesn't end"),
        (lambda c: b"\x08\x05", InputError, "wrong type"),
        (lambda c: b"\x0a\x04\x0a\x02\xff\xfe", InputError, "utf-8"),
        (lambda c: b"\x0a\x05\x0a\x01a\x18\x09", InputError, "9"),
        (lambda c: protobuf(c) + b"\x12\x02\x18\x03", UnsupportedModelError, "model_type 3"),
        (
            lambda c: protobuf(c, normalizer=b"\x20\x01"),
            UnsupportedModelError,
            "remove_extra_whitespaces True",
        ),
        (lambda c: protobuf(c, normalizer=b"\x12\x04abcd"), UnsupportedModelError, "charsmap of 4 bytes"),
        (lambda c: protobuf(c, trainer=b"\xc0\x01\x01"), UnsupportedModelError, "suffix True"),
    ],
)
def test_unsound_or_unsupported_model(
    tmp_path: Path, make: Callable[[Any], bytes], error: type[EdgekitError], found: str
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(make(trained(REPLACE)))
    with pytest.raises(error) as caught:
        vocabularies.read(tmp_path, 2000)
    assert found in str(caught.value.found) and caught.value.path == str(tmp_path / "tokenizer.model")


def test_more_pieces_than_rows(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(protobuf(trained(REPLACE)))
    with pytest.raises(InputError, match="doesn't match the model's vocabulary"):
        vocabularies.read(tmp_path, 300)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "tokenizer.model").write_bytes(content)
    try:
        assert sentencepiece.read(folder).pieces
    except (InputError, UnsupportedModelError) as error:
        assert error.path == str(folder / "tokenizer.model")


def test_phi_3s_own_stripping_needs_its_name(tmp_path: Path) -> None:
    content = trained({"type": "Sequence", "normalizers": [PREPEND, REPLACE]})
    size = len(content["model"]["vocab"])
    content["added_tokens"][2] |= {"rstrip": True, "special": False}
    content["added_tokens"].append(added(size, "<|endoftext|>"))
    content["added_tokens"] += [
        added(size + 1 + i, t, rstrip=True) for i, t in enumerate(("<|user|>", "<|end|>"))
    ]
    (tmp_path / "chat_template.jinja").write_text("<|user|>\n{{ messages[0]['content'] }}<|end|>\n")
    vocabulary = vocabularies.read(tmp_path, write(tmp_path, content))
    assert vocabulary.name_parts == ("phi-3", "phi3") and not vocabulary.notes
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path, name="My Phi-3-Mini").mismatch is None
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path, name="mine").mismatches > 1
