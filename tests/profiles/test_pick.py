"""The picker's rules, one by one, on machines made for it."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import pytest

from edgekit import here
from edgekit.profiles import others
from edgekit.profiles.choice import Artifact, Preferences
from edgekit.profiles.offload import gpu_room, ram_room
from edgekit.profiles.pick import pick
from edgekit.profiles.structs import Cpu, Gpu, Hardware, Memory, Runtime
from edgekit.profiles.threads import generation_threads
from tests.profiles.models import EIGHT, EIGHT_Q8, ONE, SEVENTY
from tests.profiles.test_recorded_choices import RECORDINGS

GB = 10**9


def recorded(name: str) -> Hardware:
    return here.recorded(RECORDINGS / f"{name}.json")


def machine(**changes: object) -> Hardware:
    """Eight cores, 16 GB, llama.cpp on the CPU."""
    cpu = Cpu(arch="x86_64", physical=8, performance=8, efficiency=0, logical=16, usable=16, usable_performance=8,
              usable_physical=8, simd=["AVX2"])  # fmt: skip
    plain = Hardware(
        system="Linux",
        cpu=cpu,
        memory=Memory(total=16 * GB, available=12 * GB, bandwidth=40e9),
        runtimes=[Runtime(name="llama.cpp", version="1", backends=["CPU"])],
    )
    return msgspec.structs.replace(plain, **changes)


def test_the_parts_of_memory_add_up() -> None:
    need = pick(machine(), [ONE])[0].memory
    assert need.total == need.weights + need.kv_cache + need.compute + need.overhead
    assert need.weights == ONE.shape.weight_bytes
    assert need.kv_cache == 16 * 1024 * 4096 * 2  # layers, widths of K and V, places, bytes of f16


@pytest.mark.parametrize(
    ("changes", "threads", "reason"),
    [
        ({}, 8, "8 physical cores, not 16 logical ones"),
        ({"efficiency": 4, "performance": 4, "usable_performance": 4}, 4, "not its 4 efficiency cores"),
        ({"quota": 2.5}, 2, "limit of 2.5 CPUs"),
        ({"quota": 0.5}, 1, "limit of 0.5 CPUs"),
        ({"usable": 2, "usable_performance": 1, "usable_physical": 1}, 1, "may run on 2 of 16"),
        ({"sockets": 2}, 4, "one of 2 sockets"),
        ({"usable_performance": 0, "usable_physical": 3, "usable": 3}, 3, "none of them a performance core"),
        ({"usable_performance": None, "usable_physical": None, "usable": None}, 1, "the cores are unknown"),
    ],
)
def test_threads(changes: dict[str, object], threads: int, reason: str) -> None:
    found, reasons = generation_threads(msgspec.structs.replace(machine().cpu, **changes), GB)
    assert found == threads
    assert any(reason in one for one in reasons), reasons


def test_a_tiny_model_is_not_shared_among_many() -> None:
    assert generation_threads(machine().cpu, 400_000)[0] == 2
    assert generation_threads(machine().cpu, 5 << 20)[0] == 5


def test_one_cpu_of_two_picks_one_thread() -> None:
    cpu = msgspec.structs.replace(machine().cpu, physical=2, logical=2, usable=1, usable_performance=1)
    assert pick(machine(cpu=cpu), [ONE])[0].threads == 1


def test_headroom_is_left() -> None:
    assert ram_room(10 * GB) == 9 * GB
    assert ram_room(1 << 30) == (1 << 30) - (256 << 20)
    card = Gpu(name="card", api="cuda", total=24 * GB, free=20 * GB)
    assert gpu_room(card) == 20 * GB - 24 * GB // 20 - (450 << 20)
    assert gpu_room(Gpu(name="full", api="cuda", total=24 * GB, free=100)) == 0


def test_unified_memory_counts_once() -> None:
    """An 8 GB Mac isn't one with 5.3 GB of VRAM and 8 GB of RAM."""
    hardware = recorded("macbook-air-m1-8gb")
    choices = pick(hardware, [EIGHT])
    assert all(choice.rejected for choice in choices)
    assert hardware.gpus[0].free is not None and hardware.memory.available is not None
    assert hardware.gpus[0].free <= hardware.memory.available


def test_partial_offload_keeps_within_the_card() -> None:
    hardware = recorded("rtx-4090-24gb")
    choice = pick(hardware, [SEVENTY])[0]
    assert 0 < choice.n_gpu_layers < 80
    assert choice.gpu_bytes <= gpu_room(hardware.gpus[0])
    each = SEVENTY.shape.weight_bytes // 80
    assert choice.gpu_bytes + 2 * each > gpu_room(hardware.gpus[0])  # and no layer less than fits
    assert any("the rest runs on the CPU" in reason for reason in choice.reasons)


def test_a_busy_card_is_predicted_at_what_is_left() -> None:
    idle, busy = pick(recorded("rtx-4090-24gb"), [ONE])[0], pick(recorded("rtx-4090-busy"), [ONE])[0]
    assert idle.decode_tps and busy.decode_tps and busy.decode_tps < idle.decode_tps / 4
    assert any("is busy (98%)" in reason for reason in busy.reasons)
    assert any("other programs hold 21.6 GB" in reason for reason in busy.reasons)


def test_a_card_that_nothing_uses_is_explained_with_a_command() -> None:
    choice = pick(recorded("rtx-4090-cpu-only-llama.cpp"), [ONE])[0]
    assert choice.device == "CPU"
    assert any("CMAKE_ARGS='-DGGML_CUDA=on'" in reason for reason in choice.reasons)
    broken = pick(recorded("rtx-3080-broken-driver"), [ONE])[0]
    assert any("RM has detected an NVML/RM version mismatch" in reason for reason in broken.reasons)


@pytest.mark.parametrize(
    ("recording", "command"),
    [
        ("nvidia-no-runtime", "CMAKE_ARGS='-DGGML_CUDA=on' pip install 'edgekit[llamacpp]'"),
        ("mac-mini-m4-16gb", "pip install 'edgekit[llamacpp]'"),
        ("industrial-pc-4gb", "pip install 'edgekit[llamacpp]'"),
    ],
)
def test_no_runtime_says_what_to_install(recording: str, command: str) -> None:
    first = pick(recorded(recording), [ONE])[0]
    assert first.rejected == "llama.cpp isn't installed" and first.install == command


def test_a_runtime_that_does_not_load() -> None:
    broken = Runtime(name="llama.cpp", problem="libcudart.so.12: cannot open shared object file")
    first = pick(machine(runtimes=[broken]), [ONE])[0]
    assert "libcudart" in (first.rejected or "") and first.install == others.ANEW


def test_what_is_insisted_on_is_shown_beside_what_was_picked() -> None:
    wishes = Preferences(threads=3, batch_threads=6, batch=64, context=1000)
    choice = pick(machine(), [ONE], wishes)[0]
    assert (choice.threads, choice.batch_threads, choice.batch, choice.context) == (3, 6, 64, 1000)
    assert choice.overridden == (
        "threads: 3 as asked, 8 was picked",
        "batch threads: 6 as asked, 3 was picked",
        "batch: 64 as asked, 512 was picked",
    )
    card = pick(recorded("rtx-4090-24gb"), [EIGHT], Preferences(n_gpu_layers=7))[0]
    assert card.n_gpu_layers == 7 and card.overridden == ("GPU layers: 7 as asked, 33 was picked",)


def test_the_best_quality_that_is_fast_enough() -> None:
    def picked(hardware: Hardware, **wishes: float) -> str:
        return pick(hardware, [EIGHT, EIGHT_Q8], Preferences(**wishes))[0].artifact.quantization  # type: ignore[arg-type]

    assert picked(recorded("rtx-4090-24gb")) == "Q8_0"
    assert (
        picked(recorded("wsl2-rtx-4070-laptop-8gb"), min_tps=20) == "Q4_K_M"
    )  # Q8_0 runs there in part, too slowly
    assert picked(recorded("amd-laptop-16gb")) == "Q4_K_M"  # none is fast: the faster one
    assert picked(machine(), min_tps=0.5) == "Q8_0"


def test_eight_bit_keys_only_where_nothing_else_fits() -> None:
    need = pick(machine(), [ONE])[0].memory
    room = need.total - need.kv_cache // 4
    tight = machine(memory=Memory(total=2 * GB, available=room + (256 << 20), bandwidth=40e9))
    assert pick(machine(), [ONE])[0].kv_type == "f16"
    choice = pick(tight, [ONE])[0]
    assert choice.kv_type == "q8_0" and choice.rejected is None
    assert pick(tight, [ONE], Preferences(kv_type="f16"))[0].rejected


def test_own_measurements_correct_and_tune() -> None:
    plain = pick(machine(), [ONE])[0]
    found = pick(machine(), [ONE], Preferences(measured=0.5, measured_prompt=2.0, tuned_threads=5))[0]
    assert found.threads == 5 and plain.threads == 8
    again = pick(machine(), [ONE], Preferences(threads=5))[0]
    assert found.decode_tps and again.decode_tps and again.prompt_tps and found.prompt_tps
    assert found.decode_tps == pytest.approx(again.decode_tps / 2)
    assert found.prompt_tps == pytest.approx(again.prompt_tps * 2)


def test_speed_is_unknown_without_a_bandwidth() -> None:
    choice = pick(machine(memory=Memory(total=16 * GB, available=12 * GB)), [ONE])[0]
    assert choice.decode_tps is None and choice.rank_tps > 0


def other(kind: str) -> Artifact:
    return replace(ONE, format=kind, quantization="int4")  # type: ignore[arg-type]


def test_formats_rank_as_they_were_measured() -> None:
    both = [Runtime(name="onnxruntime", backends=["CPUExecutionProvider"]), *machine().runtimes]
    order = [c.runtime for c in pick(machine(runtimes=both), [other("onnx"), ONE]) if not c.rejected]
    assert order == ["llama.cpp", "onnxruntime"]
    card = recorded("rtx-4090-24gb")
    card = msgspec.structs.replace(
        card, runtimes=[*card.runtimes, Runtime(name="vllm"), Runtime(name="gptqmodel")]
    )
    few = [c.runtime for c in pick(card, [other("gptq"), ONE]) if c.device != "CPU"]
    many = [
        c.runtime for c in pick(card, [other("gptq"), ONE], Preferences(sequences=8)) if c.device != "CPU"
    ]
    assert few == ["llama.cpp", "vllm", "gptqmodel"] and many[0] == "vllm"


def test_a_card_without_room_says_how_much_is_missing() -> None:
    card = recorded("rtx-4090-24gb")
    with_it = msgspec.structs.replace(card, runtimes=[*card.runtimes, Runtime(name="gptqmodel")])
    large = replace(SEVENTY, format="gptq", quantization="INT4")
    said = next(one.rejected for one in pick(with_it, [large]) if one.runtime == "gptqmodel")
    assert re.search(r"it takes [\d.]+ GB more than .*4090.* has", said or "")


def test_gptq_needs_a_card_and_its_runtime() -> None:
    without = {one.runtime: one for one in pick(machine(), [other("gptq")])}
    assert "NVIDIA cards" in (without["vllm"].rejected or "")
    assert without["gptqmodel"].install == "pip install 'edgekit[gptq]'"
    slow = machine(runtimes=[*machine().runtimes, Runtime(name="gptqmodel")])
    both = [one for one in pick(slow, [other("awq"), ONE]) if not one.rejected]
    assert [one.runtime for one in both] == ["llama.cpp", "gptqmodel"]
    assert "the better artifact" in both[1].reasons[0]
    assert "pip install" in (pick(recorded("rtx-4090-24gb"), [other("gptq")])[0].install or "")
    assert pick(machine(), [other("onnx")])[0].install == "pip install 'edgekit[onnx]'"
