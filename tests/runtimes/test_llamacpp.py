"""llama.cpp behind the seam: positions, sequences, splitting, errors, against plain calls of its API."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgekit.errors import BundleError, EdgekitError, HardwareError, InputError, RuntimeUnavailableError
from edgekit.runtimes import _llamalib
from edgekit.runtimes.cores import default_threads
from edgekit.runtimes.engine import Engine, Logits, Run
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

pytest.importorskip("llama_cpp")

TEXT = "Extract restaurant: people, date, time\nA table for two, tomorrow at seven. Ünïcode 😀 and <|eot_id|>"


@pytest.fixture(scope="module")
def engine(base_gguf: Path) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(
        base_gguf, LlamaCppOptions(n_ctx=256, n_seq_max=4, n_batch=64, n_outputs=8, threads=1)
    )
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def empty(engine: LlamaCppEngine) -> None:
    for seq in range(engine.n_seq_max):
        engine.drop(seq)


def last(engine: LlamaCppEngine, tokens: list[int], seq: int = 0) -> Logits:
    logits: Logits = engine.decode([Run(seq, tokens, (len(tokens) - 1,))])[0].copy()
    return logits


def test_it_is_an_engine(engine: LlamaCppEngine) -> None:
    seam: Engine = engine
    assert (seam.n_vocab, seam.n_ctx, seam.n_seq_max) == (4096, 256, 4)
    assert seam.specials["<|eot_id|>"] == 4
    assert seam.eos_ids >= {4}
    assert (seam.bos_token, seam.eos_token, seam.add_bos) == ("<|begin_of_text|>", "<|eot_id|>", True)
    assert seam.chat_template is not None and "start_header_id" in seam.chat_template


def test_tokens_and_bytes(engine: LlamaCppEngine) -> None:
    plain = engine.tokenize(TEXT, special=False)
    assert 4 not in plain
    assert b"".join(map(engine.token_bytes, plain)).decode() == TEXT
    assert engine.tokenize(TEXT, special=True)[-1] == 4
    assert engine.token_bytes(4) == b""
    assert engine.tokenize("", special=True) == []
    assert engine.tokenize("a\0b", special=False) != engine.tokenize("a", special=False)
    with pytest.raises(InputError, match="surrogate"):
        engine.tokenize("\ud800", special=False)


def test_logits_are_those_of_a_plain_call(engine: LlamaCppEngine) -> None:
    tokens = engine.tokenize(TEXT, special=False)[:40]
    ours = last(engine, tokens)
    engine.drop(0)
    lib, context = engine._lib, engine._context
    ids = (ctypes.c_int32 * len(tokens))(*tokens)
    assert lib.llama_decode(context, lib.llama_batch_get_one(ids, len(tokens))) == 0
    theirs = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (engine.n_vocab,))
    assert np.array_equal(ours, theirs)


def test_one_at_a_time_is_the_same_text(engine: LlamaCppEngine) -> None:
    tokens = engine.tokenize(TEXT, special=False)[:30]
    at_once = engine.decode([Run(0, tokens, range(22, 30))]).copy()
    for index, token in enumerate(tokens):
        row = engine.decode([Run(1, [token], (0,))])[0]
        if index >= 22:
            assert np.abs(row - at_once[index - 22]).max() < 0.3
            assert int(row.argmax()) == int(at_once[index - 22].argmax())


def test_long_runs_are_split_and_answers_come_in_the_order_asked(engine: LlamaCppEngine) -> None:
    tokens = (engine.tokenize(TEXT, special=False) * 9)[:200]
    want = [199, 3, 150, *range(60, 75)]
    rows = engine.decode([Run(0, tokens, want)])
    assert len(rows) == len(want)
    for index, row in zip(want[:3], rows[:3], strict=True):
        expected = last(engine, tokens[: index + 1], seq=1)
        engine.drop(1)
        assert int(row.argmax()) == int(expected.argmax())
        assert np.abs(row - expected).max() < 0.3


def test_several_sequences_in_one_call(engine: LlamaCppEngine) -> None:
    texts = ["A table for two", "Book me a flight", "What is my balance"]
    runs = [engine.tokenize(text, special=False) for text in texts]
    alone = []
    for tokens in runs:
        alone.append(last(engine, tokens))
        engine.drop(0)
    together = engine.decode([Run(seq, run, (len(run) - 1,)) for seq, run in enumerate(runs)])
    for row, expected in zip(together, alone, strict=True):
        assert int(row.argmax()) == int(expected.argmax())
        assert np.abs(row - expected).max() < 0.3


def test_a_shared_prefix(engine: LlamaCppEngine) -> None:
    prefix, tail = engine.tokenize(TEXT, special=False)[:20], engine.tokenize(" at noon", special=False)
    expected = last(engine, prefix + tail)
    engine.copy_prefix(0, 2, len(prefix))
    engine.drop(0)
    assert np.abs(last(engine, tail, seq=2) - expected).max() < 0.3
    engine.drop(2, 5)
    engine.copy_prefix(2, 2, 3)
    assert np.abs(last(engine, prefix[3:] + tail, seq=2) - expected).max() < 0.3


def test_a_sequence_that_would_outgrow_the_context_changes_nothing(engine: LlamaCppEngine) -> None:
    tokens = engine.tokenize(TEXT, special=False)
    expected = last(engine, tokens[:10])
    engine.drop(0, 9)
    with pytest.raises(InputError, match="outgrow") as error:
        engine.decode([Run(0, tokens[9:10]), Run(1, [7] * 257)])
    assert "257 more" in str(error.value)
    assert np.abs(last(engine, tokens[9:10]) - expected).max() < 0.3
    engine.drop(0)
    engine.decode([Run(0, [7] * 256)])
    with pytest.raises(InputError, match="outgrow"):
        engine.decode([Run(0, [7], (0,))])


@pytest.mark.parametrize(
    "run",
    [
        Run(4, [1], (0,)),
        Run(-1, [1], (0,)),
        Run(0, [4096], (0,)),
        Run(0, [-1, 1]),
        Run(0, [1], (1,)),
        Run(0, [], (0,)),
    ],
)
def test_unsound_runs(engine: LlamaCppEngine, run: Run) -> None:
    with pytest.raises(InputError):
        engine.decode([run])
    assert len(last(engine, [1, 2, 3])) == engine.n_vocab


def test_no_runs(engine: LlamaCppEngine) -> None:
    assert engine.decode([]).shape == (0, engine.n_vocab)
    assert engine.decode([Run(0, [])]).shape == (0, engine.n_vocab)


@pytest.mark.parametrize(("status", "kind"), [(1, HardwareError), (-2, InputError)])
def test_a_failed_decode_is_taken_back(
    engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[EdgekitError]
) -> None:
    tokens = (engine.tokenize(TEXT, special=False) * 4)[:100]
    expected = last(engine, tokens)
    engine.drop(0, 10)
    real, calls = engine._llama_decode, [0]

    def failing(context: int, batch: object) -> int:
        calls[0] += 1
        return int(real(context, batch)) or (status if calls[0] == 2 else 0)

    monkeypatch.setattr(engine, "_llama_decode", failing)
    with pytest.raises(kind):
        engine.decode([Run(0, tokens[10:])])
    calls[0] = 9
    assert np.abs(last(engine, tokens[10:]) - expected).max() < 0.3


def test_an_interrupt_between_decode_and_bookkeeping_is_repaired_by_drop(
    engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = engine.tokenize(TEXT, special=False)[:20]
    expected = last(engine, tokens)
    engine.drop(0, 10)
    real = engine._llama_decode

    def interrupted(context: int, batch: object) -> int:
        real(context, batch)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_llama_decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.decode([Run(0, tokens[10:15])])
    monkeypatch.undo()
    engine.drop(0, 10)
    assert np.abs(last(engine, tokens[10:]) - expected).max() < 0.3


def test_the_vocabulary_alone(base_gguf: Path) -> None:
    engine = LlamaCppEngine.open(base_gguf, vocab_only=True)
    assert engine.tokenize("<|eot_id|>", special=True) == [4]
    with pytest.raises(InputError, match="vocabulary only"):
        engine.decode([Run(0, [1], (0,))])
    engine.close()
    engine.close()
    with pytest.raises(InputError, match="closed"):
        engine.tokenize("x", special=False)
    with pytest.raises(InputError, match="closed"):
        engine.decode([Run(0, [1], (0,))])


def test_the_context_is_the_trained_one_unless_told(base_gguf: Path) -> None:
    engine = LlamaCppEngine(base_gguf)
    assert engine.n_ctx == 1024
    engine.close()


def test_what_is_no_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no model here"):
        LlamaCppEngine(tmp_path / "missing.gguf")
    with pytest.raises(InputError, match="a folder"):
        LlamaCppEngine(tmp_path)
    path = tmp_path / "junk.gguf"
    path.write_bytes(b"GGML" + bytes(100))
    with pytest.raises(InputError, match="not a GGUF file"):
        LlamaCppEngine(path)
    other = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(other, "no-such-architecture")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BundleError) as error:
        LlamaCppEngine(other)
    assert str(other) in str(error.value)
    assert "no-such-architecture" in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "options", [{"n_ctx": -1}, {"n_seq_max": 0}, {"n_seq_max": 257}, {"threads": -1}, {"n_batch": 0}]
)
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="out of range"):
        LlamaCppOptions(**options)  # type: ignore[arg-type]


def test_a_missing_package_names_the_command(base_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_llamalib, "load", _llamalib.load.__wrapped__)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(RuntimeUnavailableError) as error:
        LlamaCppEngine(base_gguf)
    assert "pip install 'edgekit[llamacpp]'" in str(error.value)


def test_threads() -> None:
    assert default_threads() >= 1
