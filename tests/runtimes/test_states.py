"""Models whose cache is partly a state: it can't go back, so answers must not depend on what came before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgekit.errors import UnsupportedModelError
from edgekit.runtimes import slots, step
from edgekit.runtimes.engine import Run
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from edgekit.runtimes.request import Request
from tests.converters.test_hybrids import MODELS, convert, random, write
from tests.runtimes.serving import answer, serving


@pytest.fixture(scope="module", params=MODELS)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaCppEngine]:
    config, shapes = MODELS[request.param]
    folder = tmp_path_factory.mktemp("hybrid")
    arrays = {name: array / array.shape[-1] ** 0.5 for name, array in random(shapes).items()}
    convert(write(folder / "m", config, arrays), folder / "m.gguf")
    opened = LlamaCppEngine(folder / "m.gguf", LlamaCppOptions(n_ctx=512, n_seq_max=2))
    yield opened
    opened.close()


@pytest.mark.parametrize("exact", [False, True])
def test_a_prompt_that_shares_a_beginning_is_read_anew(
    engine: LlamaCppEngine, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "STEP", 64)
    monkeypatch.setattr(step, "STEP", 64)
    request = Request(max_tokens=8)
    first, second = list(range(10, 210)), [*range(10, 190), *range(300, 330)]
    with serving(engine, exact=exact) as scheduler:
        alone = answer(scheduler, second, request)[0]
    with serving(engine, exact=exact) as scheduler:
        answer(scheduler, first, request)
        assert answer(scheduler, second, request)[0] == alone


def test_a_part_of_a_sequence_is_not_shared(engine: LlamaCppEngine) -> None:
    engine.drop(0)
    engine.drop(1)
    tokens = list(range(20, 40))
    engine.decode([Run(0, tokens)])
    with pytest.raises(UnsupportedModelError, match="can't share a part"):
        engine.copy_prefix(0, 1, 10)
    engine.copy_prefix(0, 1, len(tokens))
    one, other = (engine.decode([Run(seq, [50], (0,))])[0].copy() for seq in (0, 1))
    assert abs(one - other).max() < 1e-4


@pytest.mark.parametrize("preset", ["F16", "Q8_0", "Q4_K_M"])
@pytest.mark.parametrize("model", MODELS)
def test_sequences_of_one_call_are_as_alone(model: str, preset: str, tmp_path: Path) -> None:
    """In types that llama.cpp rearranges, too: its AMX code knows no sequences."""
    config, shapes = MODELS[model]
    arrays = {name: array / array.shape[-1] ** 0.5 for name, array in random(shapes).items()}
    convert(write(tmp_path / "m", config, arrays), tmp_path / "m.gguf", preset)
    prompts, alone = [list(range(20, 60)), list(range(100, 130))], []
    with closing(LlamaCppEngine(tmp_path / "m.gguf", LlamaCppOptions(n_ctx=128, n_seq_max=2))) as engine:
        for prompt in prompts:
            engine.clear()
            read = engine.decode([Run(0, prompt, (len(prompt) - 1,))])[0].copy()
            alone.append([read, engine.decode([Run(0, [50], (0,))])[0].copy()])
        engine.clear()
        runs = [[Run(seq, one, (len(one) - 1,)) for seq, one in enumerate(prompts)]]
        runs.append([Run(seq, [50], (0,)) for seq in (0, 1)])
        for at, both in enumerate(runs):
            rows = engine.decode(both).copy()
            scale = max(abs(row).max() for row in rows)
            assert max(abs(rows[seq] - alone[seq][at]).max() for seq in (0, 1)) < 0.05 * scale
