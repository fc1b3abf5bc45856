"""Every recorded machine's choice, in one table that can be judged at a glance.

A model with all its layers on a GPU says 17/17 (the output counts as one). "-" is a refusal, with its reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit import here
from edgekit.profiles.choice import Artifact
from edgekit.profiles.pick import pick
from tests.profiles.models import EIGHT, ONE, SEVENTY

RECORDINGS = Path(__file__).parent / "recordings"
MODELS = {"1B": ONE, "8B": EIGHT, "70B": SEVENTY}
"""Llama 3's sizes in Q4_K_M: 0.8, 4.9 and 42.5 GB, with a context of 4,096."""

TABLE = """
    recording                       1B   on                   layers threads
    amd-laptop-16gb                 1B   CPU                  0/17   8
    amd-laptop-16gb                 8B   CPU                  0/33   8
    amd-strix-point-laptop-32gb     1B   CPU                  0/17   4
    amd-strix-point-laptop-32gb     8B   CPU                  0/33   4
    core-i5-2500-no-avx2            1B   CPU                  0/17   4
    core-i5-2500-no-avx2            8B   CPU                  0/33   4
    epyc-container-2-cpus-4gb       1B   CPU                  0/17   2
    epyc-container-2-cpus-4gb       8B   -                    -      -   too large
    epyc-cpuset-6-cpus              1B   CPU                  0/17   3
    epyc-cpuset-6-cpus              8B   CPU                  0/33   3
    epyc-docker-v1-2-cpus-4gb       1B   CPU                  0/17   2
    epyc-docker-v1-2-cpus-4gb       8B   -                    -      -   too large
    epyc-two-sockets                1B   CPU                  0/17   64
    epyc-two-sockets                8B   CPU                  0/33   64
    epyc-two-sockets                70B  CPU                  0/81   64
    h100-80gb                       1B   H100 80GB HBM3       17/17  4
    h100-80gb                       8B   H100 80GB HBM3       33/33  4
    h100-80gb                       70B  H100 80GB HBM3       81/81  4
    h200-141gb                      1B   H200                 17/17  4
    h200-141gb                      8B   H200                 33/33  4
    h200-141gb                      70B  H200                 81/81  4
    industrial-pc-4gb               1B   -                    -      -   not installed
    industrial-pc-4gb               8B   -                    -      -   not installed
    intel-hybrid-laptop-16gb        1B   CPU                  0/17   4
    intel-hybrid-laptop-16gb        8B   CPU                  0/33   4
    intel-hybrid-pinned-to-e-cores  1B   CPU                  0/17   4
    intel-hybrid-pinned-to-e-cores  8B   CPU                  0/33   4
    jetson-orin-nano-8gb            1B   Orin                 17/17  4
    jetson-orin-nano-8gb            8B   Orin                 32/33  6
    mac-mini-m4-16gb                1B   -                    -      -   not installed
    mac-mini-m4-16gb                8B   -                    -      -   not installed
    macbook-air-m1-8gb              1B   Apple M1             17/17  4
    macbook-air-m1-8gb              8B   -                    -      -   too large
    macbook-pro-m2-pro-16gb         1B   Apple M2 Pro         17/17  4
    macbook-pro-m2-pro-16gb         8B   Apple M2 Pro         33/33  4
    macbook-pro-m3-max-36gb         1B   CPU                  0/17   10
    macbook-pro-m3-max-36gb         8B   CPU                  0/33   10
    macbook-pro-m4-max-64gb         1B   Apple M4 Max         17/17  4
    macbook-pro-m4-max-64gb         8B   Apple M4 Max         33/33  4
    macbook-pro-m4-max-64gb         70B  Apple M4 Max         81/81  4
    nvidia-no-runtime               1B   -                    -      -   not installed
    nvidia-no-runtime               8B   -                    -      -   not installed
    raspberry-pi-4-4gb              1B   CPU                  0/17   4
    raspberry-pi-4-4gb              8B   -                    -      -   too large
    raspberry-pi-5-8gb              1B   CPU                  0/17   4
    raspberry-pi-5-8gb              8B   CPU                  0/33   4
    rtx-3060-12gb                   1B   RTX 3060             17/17  4
    rtx-3060-12gb                   8B   RTX 3060             33/33  4
    rtx-3080-broken-driver          1B   CPU                  0/17   16
    rtx-3080-broken-driver          8B   CPU                  0/33   16
    rtx-4090-24gb                   1B   RTX 4090             17/17  4
    rtx-4090-24gb                   8B   RTX 4090             33/33  4
    rtx-4090-24gb                   70B  RTX 4090             42/81  16
    rtx-4090-busy                   1B   RTX 4090             17/17  4
    rtx-4090-busy                   8B   RTX 4090             14/33  16
    rtx-4090-cpu-only-llama.cpp     1B   CPU                  0/17   16
    rtx-4090-cpu-only-llama.cpp     8B   CPU                  0/33   16
    snapdragon-x-16gb               1B   CPU                  0/17   8
    snapdragon-x-16gb               8B   CPU                  0/33   8
    two-rtx-3090                    1B   2 x RTX 3090         17/17  4
    two-rtx-3090                    8B   2 x RTX 3090         33/33  4
    two-rtx-3090                    70B  2 x RTX 3090         81/81  4
    windows-i7-13700-32gb           1B   CPU                  0/17   8
    windows-i7-13700-32gb           8B   CPU                  0/33   8
    wsl2-rtx-4070-laptop-8gb        1B   RTX 4070 Laptop GPU  17/17  4
    wsl2-rtx-4070-laptop-8gb        8B   RTX 4070 Laptop GPU  33/33  4
    xeon-2-cores-24gb               1B   CPU                  0/17   2
    xeon-2-cores-24gb               8B   CPU                  0/33   2
"""
ROWS = [line.split(None, 2) for line in TABLE.strip().splitlines()[1:]]


def row(artifact: Artifact, recording: str) -> str:
    """What the table says of a machine and a model."""
    choice = pick(here.recorded(RECORDINGS / f"{recording}.json"), [artifact])[0]
    if choice.rejected:
        return "- - - not installed" if choice.install else "- - - too large"
    layers = artifact.shape.layers + 1
    device = (choice.device if choice.n_gpu_layers else "CPU").replace("NVIDIA ", "").replace("GeForce ", "")
    return f"{device} {choice.n_gpu_layers}/{layers} {choice.threads}"


@pytest.mark.parametrize(("recording", "model", "expected"), ROWS, ids=[f"{r[0]}-{r[1]}" for r in ROWS])
def test_choice(recording: str, model: str, expected: str) -> None:
    assert row(MODELS[model], recording) == " ".join(expected.split())


def test_every_recording_is_in_the_table_and_says_who_wrote_it() -> None:
    files = {path.stem for path in RECORDINGS.glob("*.json")}
    assert files == {recording for recording, _, _ in ROWS} and len(files) >= 20
    by_hand = {name for name in files if '"by_hand": true' in (RECORDINGS / f"{name}.json").read_text()}
    assert files - by_hand == {"xeon-2-cores-24gb"}
