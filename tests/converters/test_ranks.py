"""Tekken and tiktoken files: the ids of merging by rank, through llama.cpp."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from edgekit.converters.gguf import pretokenizers, probes, ranks
from edgekit.errors import EdgekitError, InputError, UnsupportedModelError
from edgekit.runtimes.llamacpp import LlamaCppEngine
from tests import vocabularies

MERGED = 700


def merge(word: bytes, known: dict[bytes, int]) -> list[bytes]:
    """tiktoken's algorithm, told in a few lines: join the neighbours whose joined bytes have the lowest rank."""
    if word in known:
        return [word]
    parts = [bytes([byte]) for byte in word]
    while len(parts) > 1:
        joined = [known.get(a + b, 1 << 30) for a, b in itertools.pairwise(parts)]
        best = min(joined)
        if best == 1 << 30:
            break
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def words(text: str, pattern: str) -> list[bytes]:
    from tokenizers import Regex, pre_tokenizers

    return [
        word.encode() for word, _ in pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)
    ]


def encode(text: str, known: dict[bytes, int], pattern: str) -> list[int]:
    return [known[part] for word in words(text, pattern) for part in merge(word, known)]


@pytest.fixture(scope="module")
def made() -> dict[str, dict[bytes, int]]:
    """Ranks by pattern, made from the probes: the most frequent pair of parts gets the next rank."""
    return {pattern: train(pattern) for pattern in (pretokenizers.LLAMA_3, pretokenizers.TEKKEN)}


def train(pattern: str) -> dict[bytes, int]:
    known = {bytes([byte]): byte for byte in range(256)}
    split = [[bytes([byte]) for byte in word] for text in probes.texts([]) for word in words(text, pattern)]
    while len(known) < MERGED:
        counts: dict[bytes, int] = {}
        for parts in split:
            for a, b in itertools.pairwise(parts):
                counts[a + b] = counts.get(a + b, 0) + 1
        best = max(counts, key=lambda joined: (counts[joined], joined))
        known.setdefault(best, len(known))
        for parts in split:
            at = 0
            while at < len(parts) - 1:
                if parts[at] + parts[at + 1] == best:
                    parts[at : at + 2] = [best]
                at += 1
    return known


def write_tekken(folder: Path, known: dict[bytes, int], **changes: Any) -> Path:
    vocab = [
        {"rank": r, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for t, r in known.items()
    ]
    config = {
        "pattern": pretokenizers.TEKKEN, "num_vocab_tokens": len(known) + 7, "default_vocab_size": 20 + MERGED,
        "default_num_special_tokens": 20, "version": "v3",
    }  # fmt: skip
    beyond = {"rank": MERGED, "token_bytes": base64.b64encode(b"cut off").decode(), "token_str": "cut off"}
    content = {"config": config, "vocab": [*vocab, beyond], "special_tokens": None} | changes
    (folder / "tekken.json").write_text(json.dumps(content))
    return folder


def write_tiktoken(folder: Path, known: dict[bytes, int], name: str = "tokenizer.model") -> Path:
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in known.items()]
    (folder / name).write_text("".join(lines))
    decoder = {str(MERGED): {"content": "<|begin_of_text|>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    return folder


def test_byte_letters() -> None:
    from tokenizers import pre_tokenizers

    assert sorted(ranks.byte_letters()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert level.pre_tokenize_str(" é")[0][0] == "".join(ranks.byte_letters()[b] for b in " é".encode())


@pytest.mark.parametrize("kind", ["tekken", "tiktoken"])
def test_ids_are_those_of_merging_by_rank(
    tmp_path: Path, made: dict[str, dict[bytes, int]], kind: str
) -> None:
    pattern, first = (pretokenizers.TEKKEN, 20) if kind == "tekken" else (pretokenizers.LLAMA_3, 0)
    known = {token: first + rank for token, rank in made[pattern].items()}
    (write_tekken if kind == "tekken" else write_tiktoken)(tmp_path, made[pattern])
    vocabulary = vocabularies.read(tmp_path, MERGED + 30)
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None
    engine = LlamaCppEngine(tmp_path / "vocabulary.gguf", vocab_only=True)
    touches = [limit.touches for limit in vocabulary.limits]
    texts = probes.within(probes.texts([]), touches)
    assert len(texts) > 40
    for text in texts:
        assert engine.tokenize(text, special=False) == encode(text, known, pattern)
    engine.close()


def test_tekken_specials(tmp_path: Path, made: dict[str, dict[bytes, int]]) -> None:
    known = made[pretokenizers.TEKKEN]
    vocabulary = vocabularies.read(write_tekken(tmp_path, known), MERGED + 20)
    assert (vocabulary.pre, vocabulary.file, vocabulary.add) == ("tekken", "tekken.json", {"bos": True})
    assert vocabulary.tokens[:4] == ["<unk>", "<s>", "</s>", "[INST]"]
    assert vocabulary.ids == {"unknown": 0, "bos": 1, "eos": 2}
    assert "cut off" not in vocabulary.tokens and len(vocabulary.notes) == 2
    named = [{"rank": 0, "token_str": "<unk>"}, {"rank": 1, "token_str": "<s>", "is_control": True}]
    vocabulary = vocabularies.read(write_tekken(tmp_path, known, special_tokens=named), MERGED + 20)
    assert vocabulary.tokens[1:3] == ["<s>", "<SPECIAL_2>"] and vocabulary.types[2] == TokenType.CONTROL


def test_llama_3s_own_file(tmp_path: Path) -> None:
    """128,000 ranks are Llama 3's: its special tokens follow. Merging doesn't matter here."""
    known = {bytes([byte]): byte for byte in range(256)}
    known |= {b"x" + number.to_bytes(3, "big"): number for number in range(256, ranks.LLAMA_3_RANKS)}
    write_tiktoken(tmp_path, known)
    (tmp_path / "tokenizer_config.json").unlink()
    vocabulary = vocabularies.read(tmp_path, 128_256, model_type="llama")
    assert vocabulary.ids == {"bos": 128_000, "eos": 128_001}
    assert vocabulary.tokens[128_009] == "<|eot_id|>" and vocabulary.pre == "llama-bpe"
    assert vocabulary.tokens[128_011] == "<|reserved_special_token_3|>"
    assert vocabulary.tokens[128_255] == "<|reserved_special_token_247|>"
    with pytest.raises(UnsupportedModelError, match="names no special tokens"):
        vocabularies.read(tmp_path, 128_256, model_type="qwen")


def test_real_llama_3_ranks(tmp_path: Path, data: Path) -> None:
    """The published tokenizer.json's vocabulary as ranks: llama.cpp's expected ids come out."""
    from tests.converters.test_real_tokenizers import expectations

    content = json.loads((data / "tokenizers" / "llama-3.2" / "tokenizer.json").read_text())
    numbers = {letter: byte for byte, letter in enumerate(ranks.byte_letters())}
    known = {bytes(numbers[c] for c in token): rank for token, rank in content["model"]["vocab"].items()}
    (tmp_path / "base.tiktoken").write_bytes(
        b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in known.items())
    )
    vocabulary = vocabularies.read(tmp_path, 128_256)
    assert vocabulary.file == "base.tiktoken" and vocabulary.tokens[128_009] == "<|eot_id|>"
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None
    engine = LlamaCppEngine(tmp_path / "vocabulary.gguf", vocab_only=True)
    for text, ids in expectations(data, "llama-bpe"):
        assert engine.tokenize(text, special=False) == ids
    engine.close()


def test_a_wrong_merge_is_caught(tmp_path: Path, made: dict[str, dict[bytes, int]]) -> None:
    from dataclasses import replace

    vocabulary = vocabularies.read(write_tekken(tmp_path, made[pretokenizers.TEKKEN]), MERGED + 20)
    wrong = replace(vocabulary, merges=vocabulary.merges[::-1])
    assert vocabularies.prove(wrong, tmp_path, tmp_path).mismatches > 5


Write = Callable[[Path, dict[bytes, int]], Any]


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda f, k: (f / "tekken.json").write_text("{}"), InputError, "not a readable tekken.json"),
        (
            lambda f, k: write_tekken(f, k, vocab=[{"rank": 0, "token_bytes": "?"}]),
            InputError,
            "not a readable",
        ),
        (lambda f, k: write_tekken(f, {t: r for t, r in k.items() if t != b"a"}), InputError, "unsound"),
        (lambda f, k: write_tekken(f, k | {b"twice more": 5}), InputError, "unsound"),
        (
            lambda f, k: write_tekken(f, k, special_tokens=[{"rank": 50, "token_str": "x"}]),
            InputError,
            "same id",
        ),
        (
            lambda f, k: write_tekken(
                f,
                k,
                config={"pattern": "x", "default_vocab_size": MERGED + 20, "default_num_special_tokens": 20},
            ),
            UnsupportedModelError,
            "no pre-tokenizer",
        ),
        (
            lambda f, k: (f / "a.tiktoken").write_text("YQ== 0\n!!!! 1\n"),
            InputError,
            "not a readable tiktoken",
        ),
        (lambda f, k: (f / "a.tiktoken").write_text("YQ== 0\nYQ==\n"), InputError, "not a readable tiktoken"),
        (
            lambda f, k: (f / "a.tiktoken").write_text("YQ== 0\n"),
            UnsupportedModelError,
            "names no special tokens",
        ),
    ],
)
def test_unsound_ranks(
    tmp_path: Path, made: dict[str, dict[bytes, int]], write: Write, error: type[EdgekitError], message: str
) -> None:
    write(tmp_path, made[pretokenizers.TEKKEN])
    with pytest.raises(error, match=message) as caught:
        vocabularies.read(tmp_path, MERGED + 20)
    assert caught.value.path and Path(caught.value.path).parent == tmp_path
