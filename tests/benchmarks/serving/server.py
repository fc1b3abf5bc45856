"""llama-server: built from the llama.cpp inside the installed llama-cpp-python's sdist, started, stopped."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks import peer
from tests.benchmarks.common import say
from tests.benchmarks.measure import run_child

FLAGS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_NATIVE=ON",
    "-DGGML_OPENMP=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    # GCC 12 takes the AMX code apart without it: see edgekit/runtimes/_amx.py.
    "-DCMAKE_CXX_FLAGS=-fno-dse",
]
SLOTS = 8
CONTEXT = 1024
"""Tokens for each slot."""
START_SECONDS = 120


def binary(work: Path) -> Path:
    """EDGEKIT_LLAMA_SERVER, or one that is built once, which takes a quarter of an hour on 2 cores."""
    if given := os.environ.get("EDGEKIT_LLAMA_SERVER"):
        return Path(given)
    out = work / "llama-server-build"
    found = out / "bin" / "llama-server"
    if not found.exists():
        source = peer.fetch_all(work / "peer")
        say("building llama-server …")
        run_child(["cmake", "-S", source, "-B", out, *FLAGS], work / "cmake.log")
        jobs = str(os.cpu_count() or 1)
        run_child(["cmake", "--build", out, "--target", "llama-server", "-j", jobs], work / "cmake.log")
    return found


@contextmanager
def serving(program: Path, model: Path, threads: int, extra: Sequence[str], log: Path) -> Iterator[int]:
    """A running server's port; eight slots and as many threads as everyone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    sizes = ["-np", str(SLOTS), "-c", str(SLOTS * CONTEXT), "-t", str(threads), "-tb", str(threads)]
    command = [str(program), "-m", str(model), *sizes, "--host", "127.0.0.1", "--port", str(port), *extra]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(server, port, log)
            yield port
        finally:
            server.terminate()
            server.wait()


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it is healthy: models load in the background."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"llama-server did not start\n{log.read_text(errors='replace')[-2000:]}")
