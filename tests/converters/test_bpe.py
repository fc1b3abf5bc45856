"""Byte-level BPE: read as llama.cpp's converter reads it, proved against tokenizers, refused when unsound."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from edgekit import worker
from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import plan, presets, pretokenizers, probes, stream, tokenizers
from edgekit.errors import EdgekitError, InputError, UnsupportedModelError
from tests import vocabularies
from tests.benchmarks.make_model import SPECIALS, tokenizer
from tests.models import llama_config, llama_weights, save, write_llama, write_sidecars

Change = Callable[[dict[str, Any]], None]


def changed(folder: Path, change: Change) -> Path:
    write_llama(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


def read(folder: Path, size: int = 384) -> Any:
    return tokenizers.read(folder, llama_config(), size)


def prove(folder: Path, texts: list[str]) -> worker.Proved:
    layout = plan.lay_out(Checkpoint(folder), folder, "test")
    artifact = folder / "vocabulary.gguf"
    stream.write([plan.plan(layout, presets.preset("F32"))], [artifact], 1)
    answer = worker.run(worker.Prove(str(artifact), str(folder / "tokenizer.json"), texts))
    assert isinstance(answer, worker.Proved)
    return answer


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


def test_real_llama_3_tokenizer_is_proved(tmp_path: Path, data: Path) -> None:
    content = json.loads((data / "tokenizers" / "llama-3.2" / "tokenizer.json").read_text())
    specials = json.loads((data / "configs" / "Llama-3.2-1B-Instruct" / "tokenizer_config.json").read_text())
    content["added_tokens"] = [{"id": int(i)} | t for i, t in specials["added_tokens_decoder"].items()]
    config = llama_config(
        vocab_size=128256,
        hidden_size=32,
        num_hidden_layers=1,
        bos_token_id=128000,
        eos_token_id=[128001, 128009],
    )
    write_sidecars(tmp_path, llama_config())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(specials))
    save(tmp_path / "model.safetensors", llama_weights(config))
    vocabulary = tokenizers.read(tmp_path, config, 128256)
    assert vocabulary.pre == "llama-bpe" and vocabulary.ends == {128001, 128009}
    added = [t["content"] for t in content["added_tokens"]]
    inputs = (data / "tokenizers" / "vocab-gguf" / "ggml-vocab-llama-bpe.gguf.inp").read_text()
    lines = inputs.split("\n__ggml_vocab_test__\n")
    proved = prove(
        tmp_path, [*probes.texts(added), *lines, (data / "corpora" / "war-and-peace.txt").read_text()[:20000]]
    )
    assert proved.mismatch is None
    assert vocabulary.ends <= set(proved.end_ids)


def test_added_tokens_types_and_padding(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["added_tokens"][0]["special"] = False  # "<|begin_of_text|>" controls all the same
        plain = {"id": 379 - 3, "content": "plain", "special": False}
        content["added_tokens"].append(content["added_tokens"][0] | plain)
        del content["model"]["vocab"][next(t for t, i in content["model"]["vocab"].items() if i == 379 - 3)]
        content["model"]["merges"] = content["model"]["merges"][:50]

    vocabulary = read(changed(tmp_path, change), size=400)
    assert vocabulary.types[379] == TokenType.CONTROL
    assert vocabulary.types[376] == TokenType.USER_DEFINED and vocabulary.tokens[376] == "plain"
    assert vocabulary.tokens[399] == "[PAD399]" and vocabulary.types[399] == TokenType.UNUSED


def test_ids_of_special_tokens_and_several_ends(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [383, 380]}))
    vocabulary = read(folder)
    assert vocabulary.ids == {"bos": 379, "eos": 383}  # llama.cpp knows 380 by its text, <|end_of_text|>
    assert vocabulary.ends == {383, 380}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [383, 381, 382]}))
    assert read(folder).ids == {"bos": 379, "eos": 383, "eot": 381, "eom": 382}


def test_bos_by_the_post_processor(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        template = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": SPECIALS[0], "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
        }
        content["post_processor"] = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}

    assert read(changed(tmp_path, change)).add == {"bos": True}


def test_chat_template_from_each_place(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert read(folder).chat_template == config["chat_template"]
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    assert read(folder).chat_template == "D"
    (folder / "chat_template.jinja").write_text("J")
    assert read(folder).chat_template == "J"
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": 7}))
    with pytest.raises(InputError, match="not text"):
        read(folder)


def set_vocab(content: dict[str, Any], token: Any, index: Any) -> None:
    content["model"]["vocab"][token] = index


def give_added(content: dict[str, Any], token: str, index: int) -> None:
    content["added_tokens"].append({"id": index, "content": token})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: set_vocab(c, "beyond", 384), InputError, "doesn't match the model's vocabulary"),
        (lambda c: set_vocab(c, "minus", -1), InputError, "doesn't match the model's vocabulary"),
        (lambda c: set_vocab(c, "text", "1"), InputError, "doesn't match the model's vocabulary"),
        (lambda c: set_vocab(c, "", 7), InputError, "same id"),
        (lambda c: set_vocab(c, "", c["model"]["vocab"].pop("(")), InputError, "is empty"),
        (lambda c: give_added(c, "!", c["model"]["vocab"].pop("(")), InputError, "same text"),
        (lambda c: c["model"].update(type="WordPiece"), UnsupportedModelError, "of this kind"),
        (lambda c: c["model"].update(type="Unigram"), InputError, "malformed"),
        (
            lambda c: c["model"]["merges"].append(["qq", "zz"]),
            InputError,
            "3 pieces of the merges are missing",
        ),
        (lambda c: c["model"]["merges"].append(["zz"]), InputError, "not a readable tokenizer.json"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), UnsupportedModelError, "normalizer"),
        (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), UnsupportedModelError, "pre-tokenizer"),
        (lambda c: c.update(normalizer={"type": "Sequence"}), InputError, "malformed"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(pattern="abc"), InputError, "malformed"),
        (lambda c: c["pre_tokenizer"].update(pretokenizers=5), InputError, "malformed"),
        (
            lambda c: c.update(post_processor={"type": "TemplateProcessing", "single": 5}),
            InputError,
            "malformed",
        ),
        (lambda c: c.update(post_processor={"processors": [5]}), InputError, "malformed"),
        (lambda c: c.update(pre_tokenizer=None), UnsupportedModelError, "pre-tokenizer"),
        (lambda c: c["added_tokens"][0].update(single_word=True), UnsupportedModelError, "inside words"),
        (lambda c: c.update(model=[]), InputError, "not a readable tokenizer.json"),
        (lambda c: c["model"].update(merges=[["a"]]), InputError, "not a readable tokenizer.json"),
    ],
)
def test_unsound_tokenizers(tmp_path: Path, change: Change, error: type[EdgekitError], message: str) -> None:
    folder = changed(tmp_path, change)
    with pytest.raises(error, match=message) as caught:
        read(folder)
    assert caught.value.path == str(folder / "tokenizer.json")


def test_missing_or_broken_tokenizer(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="not a readable"):
        read(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer.json"):
        plan.lay_out(Checkpoint(folder), folder, "test")


def test_a_tokenizer_that_tokenizers_cannot_load_fails_in_its_own_process(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    layout = plan.lay_out(Checkpoint(folder), folder, "test")
    stream.write([plan.plan(layout, presets.preset("F32"))], [tmp_path / "v.gguf"], 1)
    (tmp_path / "broken.json").write_text(json.dumps(tokenizer(384) | {"model": {"type": "BPE"}}))
    with pytest.raises(InputError, match="tokenizers can't read it"):
        worker.run(worker.Prove(str(tmp_path / "v.gguf"), str(tmp_path / "broken.json"), ["a"]))


def test_a_tokenizer_that_fails_on_a_text_is_named(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    vocabularies.write(read(folder), tmp_path / "v.gguf")
    broken = {"model": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": None}}
    request = worker.Prove(
        str(tmp_path / "v.gguf"), str(folder / "tokenizer.json"), ["b"], json.dumps(broken)
    )
    with pytest.raises(InputError, match="tokenizers can't run it") as caught:
        worker.run(request)
    assert str(folder / "tokenizer.json") in str(caught.value)
