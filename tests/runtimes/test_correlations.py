"""Products of columns, against transformers' inputs; and weights that are changed in memory and put back."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edgekit.correlated import Correlations
from edgekit.errors import RuntimeUnavailableError
from edgekit.gguf_header import read_header
from edgekit.runtimes import activations, correlations
from edgekit.runtimes.engine import Run
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from edgekit.runtimes.rewriting import Rewritable
from tests.converters.cases import CASES
from tests.converters.oracles import make, to_gguf
from tests.models import write_llama
from tests.runtimes.test_activations import heard, tokens

SEQUENCES = [tokens(100), tokens(64, 1), tokens(7, 2)]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("correlated")
    base = write_llama(folder / "base", max_position_embeddings=4096, tie_word_embeddings=request.param)
    return to_gguf(base, folder / "model.gguf")


@pytest.mark.parametrize("name", ["llama-3.2", "qwen3"])
def test_products_are_of_what_transformers_multiplies(name: str, tmp_path: Path) -> None:
    model = make(CASES[name], tmp_path / "base")
    path = to_gguf(tmp_path / "base", tmp_path / "model.gguf")
    sums = correlations.collect(path, SEQUENCES, tmp_path)
    expected, found = heard(model, SEQUENCES), Correlations.open(tmp_path)
    for weight, rows in expected.items():
        assert found.has(weight, rows.shape[1])
        mean = rows.T @ rows / len(rows)
        got = found.of(found.input_of(weight))
        assert np.abs(got - mean).max() < 2e-3 * np.abs(mean).max()
    # The importance matrix is the same as without.
    plain = activations.collect(path, SEQUENCES)
    assert plain.keys() == sums.keys()
    assert all((plain[one].squares == sums[one].squares).all() for one in plain)


def test_weights_of_one_input_share_its_products(tiny: Path, tmp_path: Path) -> None:
    correlations.collect(tiny, SEQUENCES, tmp_path)
    found = Correlations.open(tmp_path)
    numbers = {
        name.removeprefix("blk.0.").removesuffix(".weight"): found.input_of(name)
        for name in found.index.inputs
    }
    assert numbers["attn_q"] == numbers["attn_k"] == numbers["attn_v"] != numbers["attn_output"]
    assert numbers["ffn_gate"] == numbers["ffn_up"] not in {numbers["ffn_down"], numbers["attn_q"]}
    assert {"token_embd", "output"} & set(numbers)
    assert set(found.index.counts) == {171}


def logits(engine: LlamaCppEngine) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    engine.clear()
    return np.array(engine.decode([Run(0, tokens(20), range(20))]))


def test_weights_are_changed_and_put_back(tiny: Path) -> None:
    options = LlamaCppOptions(n_ctx=64, n_outputs=32)
    model = Rewritable(tiny, options)
    with closing(model):
        model.find()
        before = logits(model.engine)
        with closing(LlamaCppEngine(tiny, options)) as plain:
            assert np.allclose(before, logits(plain), atol=1e-3)
        for name in ("blk.1.ffn_down.weight", "token_embd.weight"):
            tensor = next(one for one in read_header(tiny).tensors if one.name == name)
            with pytest.raises(KeyboardInterrupt), model.changed({name: np.zeros(tensor.nbytes, np.uint8)}):
                assert np.abs(logits(model.engine) - before).max() > 1e-3
                raise KeyboardInterrupt
            assert (logits(model.engine) == before).all()
        stranger = {"blk.9.ffn_down.weight": np.zeros(4, np.uint8)}
        with pytest.raises(RuntimeUnavailableError, match="doesn't show where"), model.changed(stranger):
            raise AssertionError("there is no such weight")
    assert tiny.read_bytes()[:4] == b"GGUF"  # nor is the file any other
