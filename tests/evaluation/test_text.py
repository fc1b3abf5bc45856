"""Chunks of a text, and the figures of all positions, by hand from the engines' logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import BundleError, InputError
from edgekit.evaluation.divergence import Compared
from edgekit.evaluation.text import cut, figures, measure, read_plain, tokens_of
from edgekit.runtimes.chunks import ROWS, TOKENS, pieces
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from tests.evaluation.conftest import TEXT
from tests.evaluation.test_divergence import log_softmax


@pytest.mark.parametrize("length", [8, 9, 128, 511, 512, 513, 1024, 2048, 4099])
def test_every_position_is_read_once_and_those_behind_the_middle_are_scored_but_the_last(length: int) -> None:
    first, found = length // 2, pieces(length, length // 2)
    assert [at for piece in found for at in range(piece.start, piece.stop)] == list(range(length))
    assert [at for piece in found for at in range(piece.scored, piece.last)] == list(range(first, length - 1))
    assert all(0 < one.stop - one.start <= TOKENS and one.last - one.scored <= ROWS for one in found)


def test_the_chunks_of_a_text() -> None:
    found = cut(range(100, 130), 1, 8, None, Path("t"))
    assert found == [[1, *range(101, 108)], [1, *range(109, 116)], [1, *range(117, 124)]]
    assert cut(range(100, 130), None, 8, 2, Path("t")) == [[*range(100, 108)], [*range(108, 116)]]
    with pytest.raises(InputError, match="shorter than one chunk") as caught:
        cut(range(30), 1, 31, None, Path("t.txt"))
    assert caught.value.path == "t.txt" and "30 tokens" in str(caught.value)
    with pytest.raises(InputError, match="a chunk is too short"):
        cut(range(30), 1, 7, None, Path("t"))


def test_a_text_is_read_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("naïve\r\n\n".encode())
    assert read_plain(tmp_path / "a.txt") == "naïve\r\n"
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_plain(tmp_path / "b.txt")


def test_the_figures_by_hand(tiny: Path) -> None:
    """Logits of every position from one call each, in float64 from there on."""
    options = LlamaCppOptions(n_ctx=64, n_outputs=64, threads=1)
    engines = [
        LlamaCppEngine(tiny / "dist" / f"tiny-{kind}" / "model.gguf", options) for kind in ("f32", "q4_0")
    ]
    try:
        chunks = cut(*tokens_of(engines[0], TEXT), 64, None, Path("t"))
        assert len(chunks) > 2
        reference, candidate = measure([("a", engines[0]), ("b", engines[1])], chunks, lambda _: None)
        nll, tops, klds = [], [], []
        for chunk in chunks:
            logs = []
            for engine in engines:
                engine.clear()
                logs.append(log_softmax(engine.decode([Run(0, chunk, range(32, 63))])))
            p, q = logs
            at = np.arange(31), np.array(chunk[33:])
            nll.append((-p[at], -q[at]))
            tops.append(p.argmax(1) == q.argmax(1))
            klds.append((np.exp(p) * (p - q)).sum(1))
    finally:
        for engine in engines:
            engine.close()
    (base, own), same, kld = np.concatenate(nll, 1), np.concatenate(tops), np.concatenate(klds)
    count = len(kld)

    def error(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        return float(values.std(ddof=1) / np.sqrt(count))

    found, close = candidate.reference, 1e-4
    assert found is not None and reference.reference is None
    assert reference.positions == candidate.positions == count and candidate.chunks == len(chunks)
    assert reference.ppl.value == pytest.approx(np.exp(base.mean()), rel=close)
    assert candidate.ppl.value == pytest.approx(np.exp(own.mean()), rel=close)
    assert candidate.ppl.error == pytest.approx(np.exp(own.mean()) * error(own), rel=close)
    assert found.ppl_ratio.value == pytest.approx(np.exp(own.mean() - base.mean()), rel=close)
    assert found.ppl_ratio.error == pytest.approx(found.ppl_ratio.value * error(own - base), rel=close)
    assert found.kld.value == pytest.approx(kld.mean(), rel=close)
    assert found.kld.error == pytest.approx(error(kld), rel=close)
    quantiles = [found.kld_median, found.kld_p90, found.kld_p99, found.kld_p999, found.kld_max]
    assert quantiles == pytest.approx(np.quantile(kld, [0.5, 0.9, 0.99, 0.999, 1]), rel=close)
    assert found.same_top.value == pytest.approx(same.mean())
    assert found.same_top.error == pytest.approx(error(same.astype(np.float64)))
    change = np.exp(-own) - np.exp(-base)
    assert found.dp_mean.value == pytest.approx(change.mean(), rel=close)
    assert found.dp_rms.value == pytest.approx(np.sqrt((change**2).mean()), rel=close)
    assert found.dp_rms.error == pytest.approx(error(change**2) / 2 / found.dp_rms.value, rel=close)
    assert found.dp_max == pytest.approx(np.abs(change).max(), rel=close)


def test_a_model_that_is_lost_has_figures_all_the_same() -> None:
    nll = np.array([1e4, 2e4, 3e4])
    one = Compared(nll, np.zeros(3, np.intp), np.zeros(3))
    found = figures(one, Compared(nll / 2, one.top, one.kld), 8, 1)
    assert found.reference is not None
    values = [
        found.ppl.value,
        found.ppl.error,
        found.reference.ppl_ratio.value,
        found.reference.ppl_ratio.error,
    ]
    assert all(1e200 < value < np.inf for value in values)


class Spoiled(FakeEngine):
    """Its logits are NaN after the tenth position of its second chunk."""

    cleared = 0

    def clear(self) -> None:
        super().clear()
        self.cleared += 1

    def decode(self, runs: Sequence[Run]) -> Logits:
        found = super().decode(runs)
        if self.cleared == 2:
            found[10 - runs[0].want[0], 7] = np.nan
        return found


def test_logits_that_are_not_finite_stop_it(tmp_path: Path) -> None:
    chunks = [list(range(16))] * 3
    with pytest.raises(BundleError, match="the model's logits are not finite") as caught:
        measure(
            [("sound", FakeEngine("x")), (str(tmp_path / "b.gguf"), Spoiled("x"))], chunks, lambda _: None
        )
    assert caught.value.path == str(tmp_path / "b.gguf")
    assert "nan in chunk 2, after token 11" in str(caught.value)
