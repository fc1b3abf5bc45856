"""Byte-level BPE from tokenizer.json: GPT-2's, Llama 3's and their kin."""

from __future__ import annotations

from typing import Any

from gguf import TokenType

from edgekit.converters.gguf import pretokenizers, tokenizer_json
from edgekit.converters.gguf.tokenizer_json import FILE, Slots, TokenizerJson
from edgekit.converters.gguf.vocabulary import Surroundings, Vocabulary
from edgekit.errors import UnsupportedModelError
from edgekit.files import inside


def convert(tokenizer: TokenizerJson, files: Surroundings, size: int) -> Vocabulary:
    """The vocabulary of a checkpoint whose embedding has ``size`` rows; ids that no token has are padding."""
    path = inside(files.folder, FILE)
    model = tokenizer.model
    if model.type != "BPE" or model.byte_fallback or not isinstance(model.vocab, dict):
        raise UnsupportedModelError(
            "a tokenizer of this kind isn't converted", path=path, found=model.type, expected="byte-level BPE"
        )
    with tokenizer_json.malformed(path):
        nfc = pretokenizers.composes(tokenizer.normalizer, path)
        pre = pretokenizers.find(tokenizer.pre_tokenizer, bool(model.ignore_merges), nfc, path)
        if pre == "gpt-4o" and _all_merged(tokenizer):
            pre = pretokenizers.find(tokenizer.pre_tokenizer, True, nfc, path)
        merges = [_merge(*pair) for pair in model.pairs()]
    slots = Slots(size, path)
    for token, index in model.vocab.items():
        slots.put(token, index, TokenType.NORMAL)
    for added in tokenizer.added_tokens:
        slots.put(added.content, added.id, tokenizer_json.added_type(added))
    slots.check()
    with tokenizer_json.malformed(path):
        ids = tokenizer_json.special_ids(tokenizer, files, size)
        add = tokenizer_json.additions(tokenizer, files, ids)
    template = files.chat_template()
    limits = pretokenizers.limits(pre, nfc) + tokenizer_json.strip_limits(
        tokenizer.added_tokens, template, path
    )
    return Vocabulary(
        model="gpt2",
        pre=pre,
        tokens=slots.tokens,
        types=slots.types,
        merges=merges,
        ids=ids,
        add=add,
        chat_template=template,
        file=FILE,
        ends=frozenset(files.ends(size)),
        limits=limits,
    )


def _all_merged(tokenizer: TokenizerJson) -> bool:
    """Whether merges make every token of several bytes: then words that are tokens come out whole in any case."""
    made = {left + right for left, right in tokenizer.model.pairs()} | tokenizer.added.keys()
    return all(len(token) == 1 or token in made for token in tokenizer.model.vocab)


def _merge(left: Any, right: Any) -> str:
    """One merge as GGUF writes it: two pieces and a space; spaces inside a piece in byte-level code."""
    return f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}"
