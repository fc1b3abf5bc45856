"""A run with the scripted engine in the model's place, as a process that tests can kill: driver.py FOLDER OUT."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from edgekit import Model
from edgekit.pipeline import extract_files
from edgekit.runtimes.fake import FakeEngine
from tests.pipeline.stand_ins import job_in


def script(prompt: str) -> str:
    """An answer that the text decides; a byte on standard output tells that a record was asked for."""
    os.write(1, b".")
    return json.dumps({"sum": len(prompt), "said": prompt[-9:]}, separators=(",", ":"))


if __name__ == "__main__":
    folder, out = Path(sys.argv[1]), sys.argv[2]
    summary = extract_files(job_in(folder, out), load=lambda: Model(FakeEngine(script, n_ctx=512)))
    os.write(1, f"\n{summary.new}".encode())
