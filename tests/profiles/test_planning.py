"""What each device gets of four models, in one table that can be judged at a glance; and the rules behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from edgekit import here
from edgekit.converters.gguf.presets import PRESETS
from edgekit.errors import HardwareError
from edgekit.profiles import devices, planning, quality, shortfall, stand_in
from edgekit.profiles.choice import Preferences
from edgekit.profiles.devices import Device
from edgekit.profiles.pick import pick
from edgekit.profiles.planning import Candidate, Row
from tests.profiles.models import llama
from tests.profiles.test_recorded_choices import RECORDINGS

BITS = {"F16": 16, "Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "Q3_K_M": 4.0, "Q2_K": 3.35}
SIZES: dict[str, tuple[float, int, int, int, int]] = {
    "1B": (1.24, 16, 2048, 8192, 1024),
    "3B": (3.21, 28, 3072, 8192, 2048),
    "8B": (8.03, 32, 4096, 14_336, 2048),
    "70B": (70.6, 80, 8192, 28_672, 2048),
}
"""Llama 3's: billions of weights, layers, width, feed-forward, keys and values."""

TABLE = """
    device                1B      3B      8B      70B
    browser-webgpu        Q8_0    Q2_K    -       -
    datacenter-cuda-80gb  Q8_0    Q8_0    Q8_0    Q4_K_M
    industrial-pc-4gb     Q8_0    -       -       -
    jetson-agx-orin-64gb  Q8_0    Q8_0    Q8_0    -
    jetson-orin-nano-8gb  Q8_0    Q8_0    Q3_K_M  -
    laptop-16gb           Q8_0    Q8_0    -       -
    laptop-8gb            Q8_0    Q4_K_M  -       -
    macbook-16gb          Q8_0    Q8_0    Q6_K    -
    macbook-8gb           Q8_0    Q8_0    Q2_K    -
    macbook-max-64gb      Q8_0    Q8_0    Q8_0    -
    raspberry-pi-4-4gb    Q8_0    Q4_K_M  -       -
    raspberry-pi-5-8gb    Q8_0    Q5_K_M  -       -
    rtx-3060-12gb         Q8_0    Q8_0    Q8_0    -
    rtx-4090-24gb         Q8_0    Q8_0    Q8_0    -
    snapdragon-x-16gb     Q8_0    Q8_0    Q4_K_M    -
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()[1:]]


def candidates(model: str) -> list[Candidate]:
    return [Candidate(llama(*SIZES[model], bits, kind)) for kind, bits in BITS.items()]


def changed(name: str, **changes: Any) -> Device:
    return msgspec.structs.replace(devices.load(name), **changes)


def plan(model: str, name: str, **changes: Any) -> dict[str, Row]:
    return {row.quantization: row for row in planning.plan(changed(name, **changes), candidates(model))}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_is_built(row: list[str]) -> None:
    device = devices.load(row[0])
    chosen = [planning.choose(planning.plan(device, candidates(model))) for model in SIZES]
    assert [one.quantization if one else "-" for one in chosen] == row[1:]


def test_every_device_is_in_the_table() -> None:
    assert [row[0] for row in ROWS] == devices.names()


def test_every_quantization_has_its_place() -> None:
    assert sorted(quality.ORDER) == sorted(PRESETS)
    assert quality.rank("Q8_0") == quality.rank("F16") < quality.rank("Q6_K") < quality.rank("IQ1_S")
    assert quality.rank("Q4_NEW") > quality.rank("Q1_0")


def test_predictions_are_the_pickers_for_such_a_machine() -> None:
    """A recorded machine with the same figures, and not one more formula."""
    recorded = here.recorded(RECORDINGS / "raspberry-pi-5-8gb.json")
    one = candidates("1B")[4]
    there = pick(recorded, [one.artifact], Preferences(context=2048))[0]
    device = changed(
        "raspberry-pi-5-8gb", bandwidth_gb_s=(recorded.memory.bandwidth or 0) / 1e9, context=2048
    )
    row = planning.plan(device, [one])[0]
    assert row.decode_tps == there.decode_tps and row.memory_bytes[2048] == there.memory.total
    assert stand_in.hardware(device).cpu.usable_performance == recorded.cpu.usable_performance


def test_a_gpu_is_limited_by_its_bandwidth() -> None:
    """Bytes over nine tenths of the data sheet's bandwidth, 40 products a byte of it, and what layers take by themselves."""
    row = plan("8B", "rtx-4090-24gb")["Q4_K_M"]
    weights = 8.03e9 - 128_256 * 4096
    assert row.decode_tps == pytest.approx(
        1 / (weights * 4.9 / 8 / (0.9 * 1008e9) + weights / 40 / 1008e9 + 300e-6 + 32 * 80e-6), rel=1e-4
    )


def test_main_memory_at_its_own_speed_where_a_gpu_shares_it() -> None:
    gpu = devices.load("macbook-8gb").gpu
    assert gpu is not None
    shared = changed(
        "macbook-8gb", gpu=msgspec.structs.replace(gpu, bandwidth_gb_s=None), bandwidth_gb_s=68.0
    )
    assert (
        planning.plan(shared, candidates("1B"))[0].decode_tps == plan("1B", "macbook-8gb")["Q8_0"].decode_tps
    )


def test_memory_grows_with_the_context_up_to_what_was_trained() -> None:
    row = plan("8B", "laptop-16gb")["Q4_K_M"]
    assert list(row.memory_bytes) == [512 << i for i in range(9)] and row.context == 8192
    place = 32 * 2048 * 2  # layers, numbers of K and V, bytes of f16
    assert row.memory_bytes[65_536] - row.memory_bytes[32_768] >= 32_768 * place
    assert row.over == row.memory_bytes[8192] - 9_500_000_000
    shape = replace(candidates("1B")[4].artifact.shape, trained=3000)
    short = planning.plan(
        devices.load("laptop-16gb"), [Candidate(replace(candidates("1B")[4].artifact, shape=shape))]
    )
    assert short[0].context == 3000 and list(short[0].memory_bytes) == [512, 1024, 2048, 3000]
    assert "trained for 3,000 tokens; 8,192 are asked for" in short[0].reasons[-1]


def test_the_best_that_fits_and_is_fast_enough() -> None:
    rows = plan("3B", "raspberry-pi-5-8gb")
    assert [row.chosen for row in rows.values()] == [kind == "Q5_K_M" for kind in rows]
    assert rows["Q6_K"].fits and rows["Q6_K"].reasons == ("predicted at 3.9 tok/s, less than 4",)
    assert rows["Q3_K_M"].reasons == ("loses more than Q5_K_M",)
    assert not rows["F16"].fits and "GB more than the budget" in rows["F16"].reasons[0]
    tight = plan("3B", "raspberry-pi-5-8gb", budget_gb=rows["Q3_K_M"].memory_bytes[4096] / 1e9)
    assert tight["Q3_K_M"].chosen and tight["Q3_K_M"].over == 0
    assert plan("3B", "raspberry-pi-5-8gb", quantizations=["Q2_K"])["Q2_K"].chosen


def test_sixteen_bits_are_no_better_than_eight() -> None:
    rows = plan("1B", "rtx-4090-24gb")
    assert list(rows)[:3] == ["Q8_0", "F16", "Q6_K"] and rows["Q8_0"].chosen
    assert rows["F16"].reasons == ("larger than Q8_0, and no better",)


def test_what_cant_be_built_isnt_chosen() -> None:
    barred = [replace(one, barred="needs an importance matrix (--imatrix)") for one in candidates("1B")]
    rows = planning.plan(devices.load("rtx-4090-24gb"), barred)
    assert planning.choose(rows) is None and not any(row.chosen for row in rows)
    ternary = Candidate(llama(*SIZES["1B"], 2.06, "TQ2_0"))
    assert (
        "trained with such weights" in planning.plan(devices.load("rtx-4090-24gb"), [ternary])[0].reasons[0]
    )


def problem(device: Device, found: list[Candidate]) -> HardwareError:
    rows = planning.plan(device, found)
    assert planning.choose(rows) is None
    return shortfall.error(device, rows, found)


def test_too_large_by_how_much() -> None:
    device = devices.load("raspberry-pi-4-4gb")
    error = problem(device, candidates("8B"))
    takes = plan("8B", device.name)["Q2_K"].memory_bytes[2048]
    assert error.found == (
        f"Q2_K, the smallest, takes {takes / 1e9:.2f} GB with a context of 2,048: {(takes - 2.9e9) / 1e9:.2f} GB more "
        "than the 2.9 GB that a model may take"
    )


def test_too_slow_by_how_much() -> None:
    error = problem(devices.load("laptop-16gb"), candidates("8B"))
    tps = plan("8B", "laptop-16gb")["Q4_K_M"].decode_tps
    assert error.found == (
        f"Q4_K_M, the fastest that fits, is predicted at {tps:.1f} tok/s: {10 - tps:.1f} less than the 10 that are the least"
    )


@pytest.mark.parametrize("name", [row[0] for row in ROWS if "-" in row[1:]])
@pytest.mark.parametrize("model", ["3B", "8B", "70B"])
def test_what_would_do_does(name: str, model: str) -> None:
    """Each single change that the error names makes the plan succeed."""
    device, found = devices.load(name), candidates(model)
    if planning.choose(planning.plan(device, found)):
        return
    matrix = "needs an importance matrix (--imatrix)"
    small = Candidate(llama(*SIZES[model], 2.1, "IQ2_XXS"), matrix)
    advice = str(problem(device, [*found, small]).next_step).removeprefix("what would do: ").split("; ")
    assert advice[-1] == "a smaller model" and len(advice) > 1
    for remedy in advice[:-1]:
        key, _, value = remedy.partition(" = ")
        if key in {"context", "min_tps", "budget_gb"}:
            number = float(value.split()[0])
            other = msgspec.structs.replace(device, **{key: int(number) if key == "context" else number})
            assert planning.choose(planning.plan(other, found)), remedy
            assert planning.choose(
                planning.plan(other, [one for one in found if f"({one.quantization})" in value])
            )
        elif remedy.startswith("an importance matrix"):
            assert planning.choose(planning.plan(device, [replace(small, barred=None)])), remedy
        else:
            assert remedy.startswith("another target, such as ")
            for one in remedy.removeprefix("another target, such as ").split(", "):
                assert planning.choose(planning.plan(devices.load(one), found)), remedy


def test_a_quantization_that_isnt_named_is_offered() -> None:
    device = changed("laptop-16gb", quantizations=["F16"])
    assert "Q8_0 among its quantizations" in str(problem(device, candidates("3B")).next_step)
    small = Candidate(llama(*SIZES["3B"], 2.1, "IQ2_XXS"), "needs an importance matrix (--imatrix)")
    assert planning.plan(device, [small])[0].barred == planning.UNNAMED


def test_a_shorter_context_is_offered_where_it_helps() -> None:
    need = plan("8B", "laptop-16gb")["Q4_K_M"].memory_bytes
    device = changed("laptop-16gb", budget_gb=need[4096] / 1e9, min_tps=1, quantizations=["Q4_K_M"])
    assert "context = 4096 (Q4_K_M)" in str(problem(device, candidates("8B")).next_step)
