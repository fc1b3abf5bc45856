"""Probes, on recordings and on what is broken: nothing that a machine answers may end in a crash."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import here
from edgekit.errors import InputError
from edgekit.profiles.hardware import probe, threads
from edgekit.profiles.machine import Recorded, Recorder, Recording, Unavailable, span
from edgekit.profiles.questions import parse_cpu_sets, questions
from edgekit.profiles.structs import Hardware
from tests.profiles.test_recorded_choices import RECORDINGS

GIB = 1 << 30


def recording(name: str) -> Recording:
    return Recorded.open(RECORDINGS / f"{name}.json").recording


def replayed(name: str, **changes: Any) -> Hardware:
    """A recorded machine with some of its files or answers changed; None takes one away."""
    one = recording(name)
    files, answers = dict(one.files), dict(one.answers)
    for where, new in ((files, changes.get("files", {})), (answers, changes.get("answers", {}))):
        for key, value in new.items():
            where.pop(key, None)
            if value is not None:
                where[key] = value
    return probe(Recorded(msgspec.structs.replace(one, files=files, answers=answers)))


def test_this_machine() -> None:
    hardware = here.hardware()
    assert hardware.cpu.usable and hardware.memory.available
    assert threads(hardware.cpu) >= 1
    assert set(hardware.unknown) <= {
        "temperature", "power", "gpus.nvidia", "cpu.caches", "cpu.simd", "cpu.name", "cpu.affinity",
    }  # fmt: skip


def test_hybrid_cores() -> None:
    cpu = replayed("intel-hybrid-laptop-16gb").cpu
    assert (cpu.physical, cpu.performance, cpu.efficiency, cpu.logical) == (12, 4, 8, 16)
    assert cpu.simd and "AVX-VNNI" in cpu.simd and cpu.l2 == 1280 << 10
    cpu = replayed("amd-strix-point-laptop-32gb").cpu
    assert (cpu.physical, cpu.performance, cpu.efficiency) == (12, 4, 8)
    cpu = replayed("windows-i7-13700-32gb").cpu
    assert (cpu.physical, cpu.performance, cpu.efficiency, cpu.logical) == (16, 8, 8, 24)
    cpu = replayed("macbook-pro-m4-max-64gb").cpu
    assert (cpu.physical, cpu.performance, cpu.efficiency) == (16, 12, 4)


def test_the_tightest_of_all_groups_counts() -> None:
    hardware = replayed("epyc-container-2-cpus-4gb")
    assert hardware.cpu.quota == 2.0 and threads(hardware.cpu) == 2
    assert hardware.memory.limit == 4 * GIB
    # of 600 MiB in use 400 MiB are pages of files that nobody used lately
    assert hardware.memory.available == 4 * GIB - (600 << 20) + (400 << 20)
    inner = "/sys/fs/cgroup/kubepods.slice/pod1234.slice/app.scope/cpu.max"
    assert replayed("epyc-container-2-cpus-4gb", files={inner: "50000 100000\n"}).cpu.quota == 0.5


def test_cgroup_v1_through_a_mount_of_the_own_group() -> None:
    hardware = replayed("epyc-docker-v1-2-cpus-4gb")
    assert hardware.cpu.quota == 2.0 and hardware.memory.limit == 4 * GIB
    assert hardware.memory.available == 4 * GIB - (100 << 20)
    assert hardware.surroundings == "container"


def test_a_cpuset_is_whole_cores() -> None:
    cpu = replayed("epyc-cpuset-6-cpus").cpu
    assert (cpu.usable, cpu.usable_physical, cpu.logical) == (6, 3, 128)


def test_where_affinity_says_nothing_the_cpuset_does() -> None:
    gone = {"affinity": {"unavailable": "PermissionError"}}
    hardware = replayed("epyc-cpuset-6-cpus", answers=gone)
    assert hardware.cpu.usable == 6 and hardware.unknown["cpu.affinity"] == "PermissionError"


def test_boards_and_surroundings() -> None:
    assert replayed("raspberry-pi-5-8gb").board == "Raspberry Pi 5 Model B Rev 1.0"
    assert replayed("raspberry-pi-4-4gb").cpu.name == "Cortex-A72"
    assert replayed("raspberry-pi-4-4gb").cpu.simd == ["NEON"]
    assert replayed("wsl2-rtx-4070-laptop-8gb").surroundings == "WSL2"
    assert replayed("core-i5-2500-no-avx2").cpu.simd == ["AVX"]
    assert replayed("industrial-pc-4gb").cpu.simd == []


def test_gpus() -> None:
    (card,) = replayed("h100-80gb").gpus
    assert (card.api, card.capability, card.driver, card.device) == ("cuda", "9.0", "550.90.07", "CUDA0")
    assert card.bandwidth == pytest.approx(3.35e12, rel=0.01)  # NVIDIA's datasheet
    (jetson,) = replayed("jetson-orin-nano-8gb").gpus
    assert jetson.unified and not jetson.integrated and jetson.free == 6_200_000_000
    (metal,) = replayed("macbook-pro-m4-max-64gb").gpus
    assert metal.unified and metal.total == 48 * GIB and metal.bandwidth == 410e9
    assert len(replayed("two-rtx-3090").gpus) == 2
    (radeon,) = replayed("amd-laptop-16gb").gpus
    assert radeon.integrated and radeon.device == "Vulkan0"


def test_metal_s_working_set_without_llama_cpp() -> None:
    assert replayed("macbook-pro-m3-max-36gb").gpus[0].total == 30 << 30  # set by its owner
    assert replayed("mac-mini-m4-16gb").gpus[0].total == 16 * GIB * 2 // 3


def test_a_broken_driver_is_a_line_with_its_reason() -> None:
    hardware = replayed("rtx-3080-broken-driver")
    assert "NVML/RM version mismatch" in hardware.unknown["gpus.nvidia"]
    assert [gpu.name for gpu in hardware.gpus] == ["NVIDIA graphics at 0000:01:00.0"]


def test_no_nvml_with_a_card_says_what_to_install() -> None:
    gone = {"nvml": {"unavailable": "nvidia-ml-py isn't installed: pip install 'edgekit[nvidia]'"}}
    assert "edgekit[nvidia]" in replayed("rtx-4090-24gb", answers=gone).unknown["gpus.nvidia"]


@pytest.mark.parametrize(
    ("files", "field", "words"),
    [
        ({"/proc/cpuinfo": None}, "cpu.name", "/proc/cpuinfo: No such file"),
        ({"/proc/cpuinfo": "\x00\xff junk"}, "cpu.simd", "no line with a key"),
        ({"/proc/cpuinfo": "processor : 0\n"}, "cpu.name", "names no model"),
        ({"/sys/devices/system/cpu/online": "a-b"}, "cpu.cores", "no list of CPUs"),
        ({"/sys/devices/system/cpu/online": None}, "cpu.cores", "No such file"),
        ({"/proc/self/cgroup": None}, "limits", "No such file"),
        ({"/sys/fs/cgroup/cpu.max": "x y"}, "cpu.quota", "'x'"),
        ({"/sys/fs/cgroup/cpu.max": "1 0"}, "cpu.quota", "'1' in '0'"),
        ({"/sys/fs/cgroup/memory.max": "lots"}, "memory.limit", "'lots', not a number"),
        ({"/sys/fs/cgroup/cpuset.cpus.effective": "8-"}, "cpu.cpuset", ""),
        ({"/sys/devices/system/cpu/cpu0/cache/index0/size": "big"}, "cpu.caches", "cache size"),
    ],
)
def test_missing_and_garbled_files(files: dict[str, str | None], field: str, words: str) -> None:
    name = "epyc-cpuset-6-cpus"
    hardware = replayed(name, files=files)
    if words:
        assert words in hardware.unknown[field]
    assert threads(hardware.cpu) >= 1


@pytest.mark.parametrize(
    "question", ["memory", "affinity", "runtimes", "nvml", "battery", "bandwidth", "temperatures"]
)
@pytest.mark.parametrize(
    "answer", [None, 3, "junk", [], {}, [{}], {"gpus": 1}, {"total": "x"}, {"unavailable": "no"}]
)
def test_answers_that_make_no_sense(question: str, answer: Any) -> None:
    one = recording("rtx-4090-24gb")
    changed = msgspec.structs.replace(one, answers={**one.answers, question: answer})
    hardware = probe(Recorded(changed))
    assert threads(hardware.cpu) >= 1


@given(st.data())
def test_no_file_can_break_a_probe(data: st.DataObject) -> None:
    names = [
        "epyc-container-2-cpus-4gb",
        "jetson-orin-nano-8gb",
        "intel-hybrid-laptop-16gb",
        "xeon-2-cores-24gb",
    ]
    one = recording(data.draw(st.sampled_from(names)))
    path = data.draw(st.sampled_from(sorted(one.files)))
    text = data.draw(
        st.text(max_size=40) | st.sampled_from(["-1", "0", "9" * 30, "0-99999999", "max", "a:b:c:d"])
    )
    hardware = probe(Recorded(msgspec.structs.replace(one, files={**one.files, path: text})))
    assert 1 <= threads(hardware.cpu) <= 1024


def test_what_is_recorded_replays(tmp_path: Path) -> None:
    """The recorder's file gives the same hardware as the machine gave."""
    for name in ("epyc-container-2-cpus-4gb", "macbook-pro-m3-max-36gb", "windows-i7-13700-32gb"):
        recorder = Recorder(Recorded(recording(name)), name)
        first = probe(recorder)
        path = tmp_path / f"{name}.json"
        path.write_bytes(msgspec.json.encode(recorder.recording()))
        assert here.recorded(path) == first
        assert not Recorded.open(path).recording.by_hand


def test_recording_this_machine_keeps_no_other_mounts(tmp_path: Path) -> None:
    recorder = Recorder(here.machine(), "here")
    first = probe(recorder, bandwidth=False)
    again = probe(Recorded(recorder.recording()), bandwidth=False)
    assert copy.copy(again) == first
    mounts = recorder.recording().files.get("/proc/self/mountinfo", "")
    assert all(" - cgroup" in line for line in str(mounts).splitlines())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"name": "x"}', '{"name": "x", "by_hand": false, "system": 1}']
)
def test_a_file_that_is_no_recording(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a recording") as caught:
        here.recorded(path)
    assert caught.value.path == str(path)


def test_lists_of_cpus() -> None:
    assert span("0-3,8\n") == [0, 1, 2, 3, 8] and span("") == []
    for text in ("a", "1-x", "0-999999999"):
        with pytest.raises(Unavailable):
            span(text)


def test_windows_cpu_sets() -> None:
    """Two records as winnt.h lays them out, 32 bytes each."""
    record = bytes.fromhex("20000000 00000000 00010000 0000 02 01 00 00 01 00".replace(" ", "")) + bytes(12)
    other = bytes.fromhex("20000000 00000000 01010000 0100 03 02 00 00 00 00".replace(" ", "")) + bytes(12)
    assert parse_cpu_sets(record + other) == [
        {"cpu": 2, "core": 1, "efficiency_class": 1},
        {"cpu": 67, "core": 66, "efficiency_class": 0},
    ]
    with pytest.raises(Unavailable):
        parse_cpu_sets(bytes(32))


def test_a_library_that_raises_is_an_answer() -> None:
    from edgekit.profiles.machine import Live

    def broken(_: str) -> Any:
        raise RuntimeError("driver gone")

    live = Live(questions({"nvml": broken}))
    with pytest.raises(Unavailable, match="RuntimeError: driver gone"):
        live.ask("nvml")
    with pytest.raises(Unavailable):
        live.ask("nothing")
