"""A process that was given one CPU of several picks one thread, on the real machine that the tests run on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROBE = """
import json, os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from edgekit import here
from edgekit.profiles.examples import TYPICAL
from edgekit.profiles.pick import pick
hardware = here.hardware()
choice = next(one for one in pick(hardware, [TYPICAL]) if one.device == "CPU")
print(json.dumps([hardware.cpu.usable, choice.threads, choice.batch_threads]))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system can't bind a process to CPUs")
def test_one_cpu_is_one_thread() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [1, 1, 1]
