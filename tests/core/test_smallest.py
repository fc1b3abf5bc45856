"""The smallest that passes: the right rung, sure of it, and nothing left of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit import evidence, judging, smallest
from edgekit.build import build
from edgekit.buildcache import build_cached
from edgekit.bundle import Bundle, Manifest
from edgekit.errors import GateError, InputError
from edgekit.evaluation.document import Row
from edgekit.evaluation.intervals import intervals, wilson
from edgekit.evidence import Evidence, Judged, Rung
from edgekit.orders import check
from edgekit.profiles.quality import ORDER, TRAINED_FOR
from edgekit.project import BuildSpec
from edgekit.smallest import shortfall, steps
from edgekit.trial import Trial
from tests.core.test_build import tree
from tests.core.test_orders import device
from tests.evaluation.conftest import TEXT, cache  # noqa: F401
from tests.models import write_llama

Figures = dict[str, float]


@pytest.fixture
def climbing(spec: BuildSpec, tmp_path: Path) -> BuildSpec:
    """A model whose rows divide by 256, so that most types are types of their own."""
    base = write_llama(tmp_path / "wide", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    (tmp_path / "text.txt").write_text(TEXT)
    trial = Trial(text=tmp_path / "text.txt", gates=("kld <= 0.001",), ctx=64, chunks=2)
    return replace(spec, base=base, adapters=(), quantizations=("smallest",), trial=trial)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[Figures]:
    """KL divergence by quantization, set by a test in place of what is measured; its standard error is a tenth of it."""
    known: Figures = {}
    from edgekit import evaluate

    real = evaluate.evaluate

    def told(plan: Any, progress: Any) -> Any:
        found = real(plan, progress)
        return replace(found, rows=[_with(row, known.get(row.quantization, 9.0)) for row in found.rows])

    monkeypatch.setattr(evaluate, "evaluate", told)
    yield known


def _with(row: Row, kld: float) -> Row:
    assert row.text and row.text.reference
    mean = msgspec.structs.replace(row.text.reference.kld, value=kld, error=kld / 10)
    beside = msgspec.structs.replace(row.text.reference, kld=mean)
    return msgspec.structs.replace(row, text=msgspec.structs.replace(row.text, reference=beside))


def names(found: Sequence[smallest.Step] | Sequence[Rung]) -> list[str]:
    return [one.quantization for one in found]


def ladder(manifest: Manifest) -> list[Rung]:
    found = evidence.of(manifest)
    assert found is not None
    return found.ladder


def test_the_rungs_are_exact_and_ascend(climbing: BuildSpec) -> None:
    found = steps(climbing)
    assert [one.size for one in found] == sorted(one.size for one in found)
    assert set(names(found)) <= set(ORDER) - TRAINED_FOR and {"Q2_K", "Q4_K_M", "Q8_0", "F16"} <= set(
        names(found)
    )
    assert not {"IQ2_XS", "IQ1_S", "Q2_K_S"} & set(names(found))  # there is no importance matrix
    some = tuple(names(found)[::4])
    for built in build(replace(climbing, quantizations=some, trial=Trial())):
        assert (
            next(one.size for one in found if one.quantization == built.manifest.quantization) == built.size
        )
    # Overrides that leave nothing to choose leave one rung of a kind.
    alike = replace(climbing, tensor_types=(".*=q8_0",))
    assert len(steps(alike)) == 1


def test_the_first_that_passes_with_its_interval(climbing: BuildSpec, figures: Figures) -> None:
    order = names(steps(climbing))
    # The second's figure is below the bar, but not sure to be.
    figures |= {order[0]: 0.5, order[1]: 0.00099, order[2]: 0.0008, order[3]: 0.0}
    (built,) = build(climbing)
    assert (
        built.published and built.folder.name == "tiny-smallest" and built.manifest.quantization == order[2]
    )
    opened = Bundle.open(built.folder)
    assert opened.problems() == [] and opened.manifest == built.manifest
    tried = ladder(built.manifest)
    assert names(tried) == order[:3] and [one.passed for one in tried] == [False, False, True]
    (gate,) = tried[1].gates
    assert gate.measured == 0.00099 and gate.held == pytest.approx(0.00099 * (1 + 0.196)) and not gate.passed
    assert tried[2].gates[0].held == pytest.approx(0.0008 * 1.196) and tried[2].size == built.size
    assert "It is the smallest that passes" in (built.folder / "README.md").read_text()
    assert [path.name for path in climbing.out.iterdir()] == ["tiny-smallest"]


def test_a_size_gate_limits_what_is_tried(climbing: BuildSpec, figures: Figures) -> None:
    found = steps(climbing)
    bar = found[2].size
    gates = (f"size <= {bar}B", f"size > {found[0].size}B", "kld <= 0.001")
    spec = replace(climbing, trial=replace(climbing.trial, gates=gates))
    assert names(steps(spec)) == names([one for one in found if found[0].size < one.size <= bar])
    none = replace(spec, trial=replace(spec.trial, gates=("size <= 1kB", "kld <= 0.001")))
    with pytest.raises(GateError, match="no quantization has such a size") as caught:
        build(none)
    assert found[0].quantization in str(caught.value) and "size <= 1kB" in str(caught.value)
    assert not climbing.out.exists()


def test_none_passes(climbing: BuildSpec, figures: Figures) -> None:
    order = names(steps(climbing))[:4]
    top = steps(climbing)[3].size
    figures |= dict(zip(order, (0.9, 0.004, 0.002, 0.3), strict=True))
    gates = (f"size <= {top}B", "kld <= 0.001")
    spec = replace(climbing, trial=replace(climbing.trial, gates=gates))
    (old,) = build(replace(climbing, quantizations=("Q8_0",), trial=Trial()))
    kept = old.folder.rename(climbing.out / "tiny-smallest")
    before = tree(kept)
    (built,) = build(replace(spec, force=True))
    assert not built.published and built.manifest.quantization == order[2]
    assert tree(kept) == before  # what was there stays
    place = judging.failed_place(kept)
    failed = msgspec.json.decode(place.read_bytes(), type=Manifest)
    assert failed == built.manifest and names(ladder(failed)) == order
    assert sorted(path.name for path in climbing.out.iterdir()) == ["tiny-smallest", place.name]
    with pytest.raises(GateError, match="1 gate failed") as caught:
        judging.require([built])
    assert f"nothing passes, {order[2]} came nearest of 4: kld <= 0.001" in str(caught.value)
    # The next that passes takes its place.
    figures[order[0]] = 0.0
    (built,) = build(replace(spec, force=True))
    assert built.published and [path.name for path in climbing.out.iterdir()] == ["tiny-smallest"]


def test_a_real_climb_is_reproducible(climbing: BuildSpec, tmp_path: Path) -> None:
    spec = replace(climbing, trial=replace(climbing.trial, gates=("ppl_ratio <= 9", "same_top >= 5%")))
    (one,) = build(spec)
    build(replace(spec, out=tmp_path / "again"))
    assert tree(tmp_path / "again") == tree(spec.out)
    assert one.published and len(ladder(one.manifest)) == 1


def test_beside_others_and_for_devices(climbing: BuildSpec, figures: Figures, tmp_path: Path) -> None:
    order = names(steps(climbing))
    figures |= {order[0]: 0.0, "Q8_0": 0.0001, "F16": 0.5, "Q4_0": 0.0}
    spec = replace(
        climbing, quantizations=("F16", "SMALLEST", "Q8_0"), devices=(device("laptop-8gb", "Q4_0"),)
    )
    built = build_cached(spec, tmp_path / "kept")
    assert [one.built.folder.name for one in built] == [
        "tiny-f16",
        "tiny-smallest",
        "tiny-q8_0",
        "tiny-laptop-8gb",
    ]
    assert [one.how for one in built] == ["failed", "built", "built", "built"]
    assert [bool(evidence.of(one.built.manifest).ladder) for one in built] == [False, True, False, False]  # type: ignore[union-attr]
    assert [one.how for one in build_cached(spec, tmp_path / "kept")] == ["failed", *["unchanged"] * 3]
    with pytest.raises(InputError, match="two bundles would have one name"):
        check(replace(spec, quantizations=("smallest", "Smallest")))


@pytest.mark.parametrize("gates", [(), ("size <= 1GB",)])
def test_it_takes_a_gate_besides_size(climbing: BuildSpec, gates: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="a gate besides size"):
        build(replace(climbing, trial=replace(climbing.trial, gates=gates)))
    assert not climbing.out.exists()


def test_an_interrupt_leaves_nothing(
    climbing: BuildSpec, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.converters.gguf import stream

    real, passes = stream.write, []

    def write(plans: Any, paths: Sequence[Path], *rest: Any, **more: Any) -> Any:
        passes.append([path.name for path in paths])
        assert len(list(climbing.out.rglob("*.gguf"))) == (len(passes) > 1)  # the reference only
        if len(passes) == 3:
            raise KeyboardInterrupt
        return real(plans, paths, *rest, **more)

    monkeypatch.setattr(stream, "write", write)
    with pytest.raises(KeyboardInterrupt):
        build(climbing)
    assert passes == [["model.gguf", "reference.gguf"], ["model.gguf"], ["model.gguf"]]
    assert list(climbing.out.iterdir()) == []


def test_the_nearest() -> None:
    def gate(bar: str, value: float | None, passed: bool = False, held: float | None = None) -> Judged:
        return Judged(bar, value, passed, held)

    lines = [
        [gate("kld <= 0.01", 0.001, passed=True)],
        [gate("kld <= 0.01", 0.01, held=0.0101)], [gate("kld <= 0.01", 0.02)], [gate("kld <= 0.01", None)],
        [gate("kld <= 0.01", 0.011), gate("f1 >= 0.9", 0.89)],
    ]  # fmt: skip
    found = [shortfall(line) for line in lines]
    assert found == sorted(found) and found[0] == 0 and len(set(found)) == len(found)


def test_wilson_and_what_has_an_interval() -> None:
    # Newcombe (1998), table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert intervals(Row("a", "a", "Q8_0", 1, "")) == {}
    assert Evidence(None).ladder == []
