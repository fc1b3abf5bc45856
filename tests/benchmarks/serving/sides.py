"""One side's run, in a process of its own: ``python -m tests.benchmarks.serving.sides SIDE MODEL JOB OUT [EXTRA …]``.

SIDE is edgekit, loop or server. Loading is not counted, and some records are asked first.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tests.benchmarks.serving.job import Job, Said
from tests.benchmarks.serving.server import CONTEXT, SLOTS, serving

Answers = list[tuple[str, int]]
"""Text and tokens of each."""


def edgekit_side(model: Path, job: Job, extra: Sequence[str]) -> Said:
    """`extract_many` with default settings; ``extra`` may name the KV cache's type."""
    import edgekit

    kv_type: Any = extra[0] if extra else "f16"
    with edgekit.load(model, threads=job.threads, kv_type=kv_type) as loaded:

        def ask(texts: Sequence[str]) -> Answers:
            found = loaded.extract_many(texts, job.schema, job.prompt, max_tokens=job.max_tokens)
            return [(one.text, one.tokens) for one in found]

        return _timed(job, ask, _system())


def loop_side(model: Path, job: Job, extra: Sequence[str]) -> Said:
    """llama-cpp-python as its README shows it, a record at a time."""
    from llama_cpp import Llama

    threads = job.threads
    llm = Llama(str(model), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False)

    def one(text: str) -> tuple[str, int]:
        answer: Any = llm.create_chat_completion(
            messages=[{"role": "user", "content": job.asked(text)}],
            response_format={"type": "json_object", "schema": job.schema},
            temperature=0.0,
            max_tokens=job.max_tokens,
        )
        return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]

    return _timed(job, lambda texts: [one(text) for text in texts], _system())


def server_side(model: Path, job: Job, extra: Sequence[str]) -> Said:
    """llama-server, a client for each slot; ``extra`` is the program, its log, and further arguments."""
    program, log, *arguments = extra
    with serving(Path(program), model, job.threads, arguments, Path(log)) as port:
        return _timed(job, lambda texts: _clients(port, job, texts), _system())


def _clients(port: int, job: Job, texts: Sequence[str]) -> Answers:
    left: SimpleQueue[tuple[int, str]] = SimpleQueue()
    for entry in enumerate(texts):
        left.put(entry)
    found: dict[int, tuple[str, int]] = {}

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            try:
                number, text = left.get_nowait()
            except Empty:
                return
            connection.request("POST", "/v1/chat/completions", _body(job, text), _HEADERS)
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status == 200:
                content = answer["choices"][0]["message"]["content"]
                found[number] = content, answer["usage"]["completion_tokens"]
            else:  # a random model's text may be what its parser can't read; the work was done all the same
                found[number] = json.dumps(answer), 0

    threads = [threading.Thread(target=client) for _ in range(SLOTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if (failed := sum(not tokens for _, tokens in found.values())) * 10 > len(texts):
        raise RuntimeError(f"{failed} of {len(texts)} requests failed, such as {found[0]}")
    return [found[number] for number in range(len(texts))]


_HEADERS = {"Content-Type": "application/json"}


def _body(job: Job, text: str) -> str:
    return json.dumps(
        {
            "messages": [{"role": "user", "content": job.asked(text)}],
            "response_format": {"type": "json_object", "schema": job.schema},
            "temperature": 0,
            "max_tokens": job.max_tokens,
            "cache_prompt": True,
        }
    )


def _timed(job: Job, ask: Callable[[Sequence[str]], Answers], system: str) -> Said:
    ask(job.texts[: job.warm])
    began = time.perf_counter()
    found = ask(job.texts)
    seconds = time.perf_counter() - began
    return Said(seconds, [text for text, _ in found], sum(tokens for _, tokens in found), system)


def _system() -> str:
    from llama_cpp import llama_print_system_info

    return str(llama_print_system_info().decode())


SIDES = {"edgekit": edgekit_side, "loop": loop_side, "server": server_side}


def main() -> None:
    """One run of one side."""
    side, model, job, out, *extra = sys.argv[1:]
    SIDES[side](Path(model), Job.read(Path(job)), extra).write(Path(out))


if __name__ == "__main__":
    main()
