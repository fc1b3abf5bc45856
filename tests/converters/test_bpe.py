"""Byte-level BPE: read as llama.cpp's converter reads it, proved against tokenizers, refused when unsound."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, GGUFWriter, TokenType

from edgekit import worker
from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import plan, presets, probes, stream, tokenizers
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


def test_named_chat_templates_are_keys_as_gguf_py_writes_them(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [
        {"name": name, "template": text} for name, text in (("rag", "R"), ("default", "D"), ("tool-use", "T"))
    ]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    writer = GGUFWriter(tmp_path / "theirs.gguf", "llama")
    writer.add_chat_template(named)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    theirs = {
        key: field.contents()
        for key, field in GGUFReader(tmp_path / "theirs.gguf").fields.items()
        if key.startswith("tokenizer.")
    }
    ours = {entry.key: entry.value for entry in read(folder).entries() if "chat_template" in entry.key}
    theirs["tokenizer.chat_templates"].sort()  # as they come out of a set
    assert ours == theirs and ours["tokenizer.chat_template.tool_use"] == "T"
    for names in (["a-b", "a_b"], [f"n{i}" for i in range(20)]):
        many = [{"name": name, "template": "T"} for name in names]
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": many}))
        with pytest.raises(InputError, match="told apart"):
            read(folder)


def test_chat_template_from_each_place(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert read(folder).chat_template == config["chat_template"]
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    assert read(folder).chat_template == "D"
    assert not read(folder).named_templates.keys() & {"default"}
    (folder / "chat_template.jinja").write_text("J")
    assert read(folder).chat_template == "J" and not read(folder).named_templates
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


@pytest.mark.parametrize(
    ("charsmap", "message"),
    [(b"", "tokenizers can't read it"), (b"\x04\0\0\0\xff\xff\xff\xff", "tokenizers can't run it")],
)
def test_a_tokenizer_that_panics_is_an_error(tmp_path: Path, charsmap: bytes, message: str) -> None:
    """A panic in Rust is no Exception in Python; these two are of maps that lead nowhere, on loading and on a text."""
    folder = write_llama(tmp_path)
    vocabularies.write(read(folder), tmp_path / "v.gguf")
    normalizer = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    definition = json.dumps(tokenizer(384) | {"normalizer": normalizer})
    request = worker.Prove(str(tmp_path / "v.gguf"), str(folder / "tokenizer.json"), ["a"], definition)
    with pytest.raises(InputError, match=message):
        worker.run(request)
