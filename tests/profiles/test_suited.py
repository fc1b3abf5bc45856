"""Which machines a bundle was meant for, asked of recorded ones."""

from __future__ import annotations

import msgspec
import pytest

from edgekit import here
from edgekit.intended import Intended
from edgekit.profiles import devices, planning
from edgekit.profiles.planning import Candidate
from edgekit.profiles.structs import Hardware, Memory
from edgekit.profiles.suited import intended, unsuited
from tests.profiles.models import EIGHT, ONE
from tests.profiles.test_recorded_choices import RECORDINGS


def meant(target: str, model: str = "1B") -> Intended:
    device = devices.load(target)
    artifact = {"1B": ONE, "8B": EIGHT}[model]
    return intended(device, planning.plan(device, [Candidate(artifact)])[0])


def recorded(name: str) -> Hardware:
    return here.recorded(RECORDINGS / f"{name}.json")


TABLE = """
    target                model  machine                      why it isn't meant for it
    raspberry-pi-5-8gb    1B     raspberry-pi-5-8gb           -
    raspberry-pi-5-8gb    1B     raspberry-pi-4-4gb           this processor has no dotprod
    raspberry-pi-4-4gb    1B     raspberry-pi-5-8gb           -
    raspberry-pi-5-8gb    8B     raspberry-pi-4-4gb           can be used here; this processor has no dotprod
    raspberry-pi-5-8gb    1B     amd-laptop-16gb              predicted for aarch64, and this is x86_64
    laptop-16gb           1B     amd-laptop-16gb              -
    laptop-16gb           1B     windows-i7-13700-32gb        -
    laptop-16gb           1B     core-i5-2500-no-avx2         this processor has no AVX2
    laptop-16gb           8B     epyc-container-2-cpus-4gb    GB can be used here
    laptop-16gb           1B     snapdragon-x-16gb            predicted for x86_64, and this is aarch64
    laptop-16gb           8B     rtx-4090-24gb                -
    snapdragon-x-16gb     1B     snapdragon-x-16gb            -
    macbook-8gb           1B     macbook-air-m1-8gb           -
    macbook-8gb           1B     macbook-pro-m4-max-64gb      -
    macbook-16gb          8B     macbook-air-m1-8gb           GB can be used here
    rtx-4090-24gb         8B     rtx-4090-24gb                -
    rtx-4090-24gb         8B     rtx-3060-12gb                -
    rtx-4090-24gb         8B     two-rtx-3090                 -
    rtx-4090-24gb         1B     rtx-4090-cpu-only-llama.cpp  installed llama.cpp doesn't use NVIDIA GeForce RTX 4090
    rtx-3060-12gb         1B     xeon-2-cores-24gb            a GPU (cuda), and there is none here
    jetson-orin-nano-8gb  1B     jetson-orin-nano-8gb         -
"""
ROWS = [line.split(None, 3) for line in TABLE.strip().splitlines()[1:]]


@pytest.mark.parametrize(("target", "model", "machine", "why"), ROWS, ids=["-".join(row[:3]) for row in ROWS])
def test_machines(target: str, model: str, machine: str, why: str) -> None:
    found = unsuited(meant(target, model), recorded(machine))
    if why == "-":
        assert found is None
    else:
        assert found is not None and found.startswith(f"built for {target}: ") and why in found


def test_what_it_takes_is_named() -> None:
    bundle = meant("laptop-16gb", "8B")
    machine = msgspec.structs.replace(
        recorded("amd-laptop-16gb"), memory=Memory(total=8 * 10**9, available=5 * 10**9)
    )
    assert unsuited(bundle, machine) == (
        f"built for laptop-16gb: it takes {bundle.memory / 1e9:.2f} GB with a context of 8,192, and 4.50 GB can be used here"
    )


def test_too_slow_here() -> None:
    machine = recorded("amd-laptop-16gb")
    assert unsuited(meant("laptop-16gb"), machine, 10.0) is None
    assert unsuited(meant("laptop-16gb"), machine, 9.9) == (
        "built for laptop-16gb: 9.9 tok/s are predicted here, and at least 10 were wanted"
    )


def test_what_isnt_known_is_no_reason() -> None:
    machine = recorded("amd-laptop-16gb")
    blind = msgspec.structs.replace(
        machine, memory=Memory(), cpu=msgspec.structs.replace(machine.cpu, simd=None), gpus=[]
    )
    assert unsuited(meant("laptop-16gb", "8B"), blind) is None


def test_it_goes_into_a_manifest_and_comes_back() -> None:
    bundle = meant("rtx-4090-24gb")
    assert msgspec.json.decode(msgspec.json.encode(bundle), type=Intended) == bundle
    assert (bundle.runs_on, bundle.context, bundle.min_tps) == ("cuda", 16_384, 25)
