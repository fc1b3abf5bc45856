"""Google's own SentencePiece as the oracle: the ids of a tokenizer.model, published and trained here, in llama.cpp."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from edgekit.converters.gguf import probes, sentencepiece
from edgekit.converters.gguf.vocabulary import Vocabulary
from edgekit.runtimes.llamacpp import LlamaCppEngine
from tests import vocabularies
from tests.converters.test_real_tokenizers import copied, expectations

PUBLISHED = {"llama-2": 32000, "mistral-v1": 32000, "mistral-v7": 32768}
CORPORA = (
    "calibration/multilingual.utf8",
    "calibration/code.utf8",
    "wikitext-2/test.txt",
    "war-and-peace.txt",
)
TEXTS = [*probes.SCRIPTS, *probes.NUMBERS, *probes.CODE]
TAGS = ["<tag>", "two words", "[7]"]


def differing(vocabulary: Vocabulary, folder: Path, texts: Sequence[str]) -> list[str]:
    """The texts that llama.cpp, with our vocabulary, gives other ids than SentencePiece with the file."""
    processor = pytest.importorskip("sentencepiece").SentencePieceProcessor(
        model_file=str(folder / sentencepiece.FILE)
    )
    engine = LlamaCppEngine(vocabularies.write(vocabulary, folder / "vocabulary.gguf"), vocab_only=True)
    try:
        return [
            text
            for text in texts
            if not same(engine.tokenize(text, special=False), processor.encode_as_ids(text), vocabulary)
        ]
    finally:
        engine.close()


def same(found: list[int], expected: list[int], vocabulary: Vocabulary) -> bool:
    """The same ids, or among unigram's ways to cut a text another one that is as likely: ties fall as they may."""
    if found == expected or vocabulary.model != "t5":
        return found == expected
    ours, theirs = ("".join(vocabulary.tokens[i] for i in ids) for ids in (found, expected))
    likely, best = (sum(vocabulary.scores[i] for i in ids) for ids in (found, expected))
    return ours == theirs and abs(likely - best) < 1e-4 * abs(best)


def user_defined(vocabulary: Vocabulary) -> list[str]:
    kinds = zip(vocabulary.tokens, vocabulary.types, strict=True)
    return [token for token, kind in kinds if kind == TokenType.USER_DEFINED]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(tmp_path: Path, data: Path, name: str) -> None:
    folder = copied(data, name, tmp_path, sentencepiece.FILE)
    vocabulary = vocabularies.read(folder, PUBLISHED[name])
    texts = [*probes.of(vocabulary), *(text for text, _ in expectations(data, "llama-spm"))]
    for corpus in CORPORA:
        content = (data / "corpora" / corpus).read_text("utf-8", "replace")
        texts += [content[at : at + 500] for at in range(0, min(len(content), 400_000), 10_000)]
    assert len(texts) > 200 and differing(vocabulary, folder, texts) == []


def test_user_defined_tokens_are_told_and_left_out(tmp_path: Path, data: Path) -> None:
    """Mistral's [REF]: llama.cpp begins anew behind it, so texts with it are no proof."""
    folder = copied(data, "mistral-v7", tmp_path, sentencepiece.FILE)
    vocabulary = vocabularies.read(folder, PUBLISHED["mistral-v7"])
    assert "[REF]" in user_defined(vocabulary)
    assert "begins anew with a space behind [/REF], [REF]" in vocabulary.notes[0]
    assert differing(vocabulary, folder, ["a[REF] b", "[REF]", "a [INST] b"]) == ["a[REF] b", "[REF]"]
    assert not any("[REF]" in probe for probe in probes.of(vocabulary))


KINDS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
              "remove_extra_whitespaces": False, "split_digits": True},
    "gemma": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
              "remove_extra_whitespaces": False, "add_dummy_prefix": False, "user_defined_symbols": TAGS},
    "tagged": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
               "remove_extra_whitespaces": False, "user_defined_symbols": TAGS},
    "t5": {"model_type": "unigram"},
    "unigram-nfkc-cf": {"model_type": "unigram", "normalization_rule_name": "nfkc_cf"},
    "unigram-plain": {"model_type": "unigram", "normalization_rule_name": "identity",
                      "remove_extra_whitespaces": False, "add_dummy_prefix": False, "user_defined_symbols": TAGS},
    "unigram-tagged": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc", "user_defined_symbols": TAGS},
}  # fmt: skip


def train(folder: Path, **settings: Any) -> int:
    """A tokenizer.model by SentencePiece's trainer, of the probe texts' words; returns its size."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    model = io.BytesIO()
    # Written twice, so that some words are pieces.
    sentences = iter([part for text in TEXTS * 2 for part in text.split("\n")])
    trainer.train(
        sentence_iterator=sentences, model_writer=model, vocab_size=900, hard_vocab_limit=False,
        character_coverage=0.98, num_threads=1, minloglevel=2, control_symbols=["<turn>"], **settings,
    )  # fmt: skip
    (folder / sentencepiece.FILE).write_bytes(model.getvalue())
    return len(sentencepiece.read(folder).pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_its_own_trainer(tmp_path: Path, kind: str) -> None:
    size = train(tmp_path, **KINDS[kind])
    vocabulary = vocabularies.read(tmp_path, size)
    texts = [*probes.of(vocabulary), *TEXTS, *(f" {text}  {text[:40]}\n" for text in TEXTS)]
    assert differing(vocabulary, tmp_path, texts) == []
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None
    tagged = [f"one {tag}two {tag} 3{tag}{tag}" for tag in TAGS]
    told = any("begins anew" in note for note in vocabulary.notes)
    assert bool(differing(vocabulary, tmp_path, tagged)) == told == ("tagged" in kind)
