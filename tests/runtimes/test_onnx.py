"""ONNX Runtime behind the seam: logits against transformers', ids against onnxruntime-genai's, and folders that aren't sound."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit import golden
from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, RuntimeUnavailableError, UnsupportedModelError
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.onnx import OnnxEngine
from edgekit.runtimes.rows import RowsOptions
from tests.conftest import ADAPTER, BASE

TEXT = "Extract restaurant: people, date, time\nA table for two, tomorrow at seven. Ünïcode 😀 and <|eot_id|>"


@pytest.fixture(scope="module")
def folder(onnx_bundles: Path) -> Path:
    return onnx_bundles / "restaurant-onnx-fp32" / "onnx"


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[OnnxEngine]:
    engine = OnnxEngine(folder, RowsOptions(n_ctx=256, n_seq_max=2, threads=1))
    yield engine
    engine.close()


@pytest.fixture
def copied(onnx_bundles: Path, tmp_path: Path) -> Path:
    """A bundle to spoil."""
    return Path(shutil.copytree(onnx_bundles / "restaurant-onnx-int4", tmp_path / "bundle"))


def whole(engine: OnnxEngine, tokens: list[int]) -> Logits:
    engine.clear()
    found: Logits = engine.decode([Run(0, tokens, tuple(range(len(tokens))))]).copy()
    return found


def test_what_the_folder_says(engine: OnnxEngine) -> None:
    assert (engine.n_vocab, engine.n_ctx, engine.n_seq_max) == (4096, 256, 2)
    assert engine.specials["<|eot_id|>"] == 4 and 4 in engine.eos_ids
    assert (engine.bos_token, engine.eos_token, engine.add_bos) == ("<|begin_of_text|>", "<|eot_id|>", True)
    assert engine.chat_template == (BASE / "chat_template.jinja").read_text()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT's
def test_fp32_logits_are_those_of_transformers(engine: OnnxEngine) -> None:
    torch = pytest.importorskip("torch")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    merged = PeftModel.from_pretrained(plain, ADAPTER).merge_and_unload().eval()
    tokens = engine.tokenize(engine.bos_token, special=True) + engine.tokenize(TEXT, special=False)
    with torch.no_grad():
        expected = merged(torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(whole(engine, tokens) - expected).max() <= 1e-3


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_onnxruntime_genai_opens_the_folder_as_it_is(onnx_bundles: Path, precision: str) -> None:
    og = pytest.importorskip("onnxruntime_genai")
    place = onnx_bundles / f"restaurant-onnx-{precision}" / "onnx"
    model = og.Model(str(place))
    with_engine = OnnxEngine(place, RowsOptions(n_ctx=256, threads=1))
    prompt = with_engine.tokenize(f"{with_engine.bos_token}Extract: a table for two", special=True)
    assert (
        og.Tokenizer(model).encode("A table for two").tolist()[-4:]
        == with_engine.tokenize("A table for two", special=False)[-4:]
    )
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + 24, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(prompt, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    theirs = list(generator.get_sequence(0))[len(prompt) :]
    ours = []
    row = with_engine.decode([Run(0, prompt, (len(prompt) - 1,))])[0]
    for _ in range(24):
        if (token := int(row.argmax())) in with_engine.eos_ids:  # their sequence leaves it out
            break
        ours.append(token)
        row = with_engine.decode([Run(0, ours[-1:], (0,))])[0]
    with_engine.close()
    assert [int(token) for token in theirs] == ours


def test_int4_answers_stay_near_fp32(onnx_bundles: Path, engine: OnnxEngine) -> None:
    """A bound that a wrong scale, offset or layer breaks: unrelated models differ by several nats."""
    quantized = OnnxEngine(onnx_bundles / "restaurant-onnx-int4" / "onnx", RowsOptions(n_ctx=256, threads=1))
    tokens = engine.tokenize(TEXT * 2, special=False)
    exact, near = (_log_softmax(whole(one, tokens)) for one in (engine, quantized))
    quantized.close()
    assert 0 < (np.exp(exact) * (exact - near)).sum(-1).mean() < 0.2


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    found: Logits = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def test_a_bundle_loads_answers_and_replays(onnx_bundles: Path) -> None:
    bundle = Bundle.open(onnx_bundles / "restaurant-onnx-int4")
    assert bundle.problems() == []
    with edgekit.load(bundle.folder, n_ctx=512, n_parallel=2) as model:
        found = model.extract("A table for two at seven, please.")
        assert set(found.data) == set(bundle.manifest.output_schema["properties"])  # type: ignore[index]
    engine = OnnxEngine(bundle.artifact, RowsOptions(n_ctx=512))
    assert golden.replay(engine, golden.read(bundle)).differences == []
    engine.close()


def test_the_whole_context_is_used(folder: Path) -> None:
    """To the last place of the graph's own table of rotations, beside a sequence that is full."""
    engine = OnnxEngine(folder, RowsOptions(n_seq_max=3, threads=1))
    assert engine.n_ctx == 1024
    tokens = (engine.tokenize(TEXT, special=False) * 40)[:1024]
    expected = whole(engine, tokens)[-1]
    engine.clear()
    engine.decode([Run(seq, tokens[:count]) for seq, count in ((0, 1022), (1, 1024), (2, 1022))])
    for token in tokens[1022:]:
        rows = engine.decode([Run(0, [token], (0,)), Run(2, [token], (0,))]).copy()
    assert np.abs(rows - expected).max() <= 1e-3
    engine.drop(0, 1023)
    assert np.abs(engine.decode([Run(0, tokens[-1:], (0,))])[0] - expected).max() <= 1e-3
    for seq in range(3):
        with pytest.raises(InputError):
            engine.decode([Run(seq, tokens[:1], (0,))])
    engine.close()


def test_only_the_vocabulary(folder: Path) -> None:
    engine = OnnxEngine(folder, vocab_only=True)
    assert engine.tokenize("two", special=False) and engine.n_ctx == 0
    with pytest.raises(InputError, match="vocabulary only"):
        engine.decode([Run(0, [1], (0,))])
    engine.close()
    with pytest.raises(InputError, match="closed"):
        engine.tokenize("two", special=False)


def test_a_context_beyond_the_graph_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="longer than the model"):
        OnnxEngine(folder, RowsOptions(n_ctx=1 << 20))


@pytest.mark.parametrize("wish", [{"n_kv": 64}, {"kv_type": "q8_0"}, {"n_gpu_layers": 1}])
def test_settings_of_llama_cpp_are_refused_by_name(onnx_bundles: Path, wish: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no such setting") as caught:
        edgekit.load(onnx_bundles / "restaurant-onnx-int4", **wish)
    assert next(iter(wish)) in str(caught.value)


def test_without_onnxruntime_the_command_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailableError) as caught:
        OnnxEngine(folder)
    assert "pip install 'edgekit[onnx]'" in str(caught.value)


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _outside(onnx: Path) -> None:
    """Weights that lie above the folder, by the name that the graph has for them."""
    graph = onnx / "model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"model.onnx.data", b"../../etc/passw"))


def _word_pieces(onnx: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    made = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    made.decoder = decoders.WordPiece()
    made.save(str(onnx / "tokenizer.json"))


SPOILED: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no graph": (lambda onnx: (onnx / "model.onnx").unlink(), Exception, "model.onnx"),
    "no weights": (lambda onnx: (onnx / "model.onnx.data").unlink(), BundleError, "not there"),
    "short weights": (
        lambda onnx: (onnx / "model.onnx.data").write_bytes(b"short"), BundleError, "ends behind",
    ),
    "weights outside": (_outside, BundleError, "no plain file name"),
    "no configuration": (lambda onnx: (onnx / "genai_config.json").unlink(), BundleError, "no ONNX model here"),
    "no tokenizer": (lambda onnx: (onnx / "tokenizer.json").unlink(), Exception, "tokenizer.json"),
    "a broken tokenizer": (
        lambda onnx: (onnx / "tokenizer.json").write_text('{"decoder": {"type": "ByteLevel"}}'),
        BundleError, "tokenizer doesn't work",
    ),
    "a strange tokenizer": (
        _word_pieces, UnsupportedModelError, "byte by byte",
    ),
    "half a graph": (
        lambda onnx: (onnx / "model.onnx").write_bytes((onnx / "model.onnx").read_bytes()[:5000]),
        BundleError, "not a sound ONNX graph",
    ),
    "a graph elsewhere": (
        lambda onnx: _edit(
            onnx / "genai_config.json", lambda c: c["model"]["decoder"].update(filename="../model.onnx")
        ),
        BundleError, "no plain name",
    ),
    "sizes beyond belief": (
        lambda onnx: _edit(onnx / "genai_config.json", lambda c: c["model"].update(vocab_size=1 << 40)),
        BundleError, "impossible sizes",
    ),
    "layers that the graph has not": (
        lambda onnx: _edit(
            onnx / "genai_config.json", lambda c: c["model"]["decoder"].update(num_hidden_layers=99)
        ),
        UnsupportedModelError, "doesn't run",
    ),
    "names that aren't patterns": (
        lambda onnx: _edit(
            onnx / "genai_config.json",
            lambda c: c["model"]["decoder"]["inputs"].update(past_key_names="past"),
        ),
        UnsupportedModelError, "doesn't run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_folders_that_are_not_sound(copied: Path, what: str) -> None:
    spoil, kind, words = SPOILED[what]
    spoil(copied / "onnx")
    with pytest.raises(kind) as caught:
        OnnxEngine(copied / "onnx", RowsOptions(n_ctx=64))
    assert isinstance(caught.value, edgekit.errors.EdgekitError) and words in str(caught.value)


def test_a_bundle_whose_weights_were_changed_is_not_loaded(copied: Path) -> None:
    data = copied / "onnx" / "model.onnx.data"
    changed = bytearray(data.read_bytes())
    changed[len(changed) // 2] ^= 1
    data.write_bytes(changed)
    with pytest.raises(BundleError, match="not what was built"):
        edgekit.load(copied, verify=True)


def test_weights_that_the_manifest_does_not_list_are_not_read(copied: Path) -> None:
    def unlisted(manifest: dict[str, Any]) -> None:
        manifest["files"] = [one for one in manifest["files"] if not one["path"].endswith(".data")]

    _edit(copied / "manifest.json", unlisted)
    with pytest.raises(BundleError, match="isn't in the manifest"):
        Bundle.open(copied)
