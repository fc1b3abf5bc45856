"""Golden probes: what the artifact answered where it was built, replayed where it runs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.bundle import GOLDEN, Bundle
from edgekit.errors import BundleError, InputError
from edgekit.files import MALFORMED, read_bounded

if TYPE_CHECKING:
    from edgekit.runtimes.engine import Engine

TOP = 8
TOLERANCE = 0.25
"""Largest difference of a logit that replay accepts: another CPU sums in another order, a wrong model is far off."""

WHEN = datetime(2026, 1, 1)
"""The date that templates which print one are rendered with."""

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Table for 4 adults, tomorrow at 7:30 pm — name: Zoë Müller",
    "def add(a, b):\n\treturn a + b  # 1234567\n",
    "我想在 12 月订位 🍜 для двоих",
)
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": TEXTS[1]}],
    [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": TEXTS[0]}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": TEXTS[3]},
    ],
)


class Tokens(msgspec.Struct, forbid_unknown_fields=True):
    """A text and its ids."""

    text: str
    ids: list[int]


class Prompt(msgspec.Struct, forbid_unknown_fields=True):
    """Messages, what the chat template made of them, and the ids of that."""

    messages: list[dict[str, str]]
    text: str
    ids: list[int]


class Logits(msgspec.Struct, forbid_unknown_fields=True):
    """The most likely next tokens after some ids, with their logits, best first."""

    ids: list[int]
    top: list[tuple[int, float]]


class Golden(msgspec.Struct, forbid_unknown_fields=True):
    """golden.json."""

    tokens: list[Tokens]
    prompts: list[Prompt]
    logits: list[Logits]


class Replay(msgspec.Struct):
    """What a replay found: differences in words, and the largest difference of a logit."""

    differences: list[str]
    probes: int
    largest: float


def record(engine: Engine, task_prompt: str | None = None, *, allow_nonfinite: bool = False) -> Golden:
    """Run the probes on a loaded artifact; roles that its template refuses are left out.

    Raises ``InputError`` for a template that can't even render one user message, and for logits that aren't finite;
    some of them may be with ``allow_nonfinite``, and are left out.
    """
    chats = list(CHATS)
    if task_prompt:
        chats.append([{"role": "user", "content": task_prompt.replace("{text}", TEXTS[1])}])
    tokens = [Tokens(text, engine.tokenize(text, special=False)) for text in TEXTS]
    prompts = []
    for chat in chats if engine.chat_template else ():
        try:
            prompts.append(_render(engine, chat))
        except InputError:
            if chat == CHATS[0]:
                raise
    # A few passes show a wrong weight or kernel; each costs the model's whole weight once on a small device.
    runs = [
        *(entry.ids for entry in tokens[:2]),
        *(prompt.ids for prompt in prompts if prompt.messages in (chats[0], chats[-1])),
    ]
    return Golden(tokens, prompts, [Logits(ids, _top(engine, ids, allow_nonfinite)) for ids in runs])


def replay(engine: Engine, golden: Golden) -> Replay:
    """Run recorded probes again and compare: ids and prompts exactly, logits to ``TOLERANCE``."""
    found = Replay([], len(golden.tokens) + len(golden.prompts) + len(golden.logits), 0.0)
    for entry in golden.tokens:
        if engine.tokenize(entry.text, special=False) != entry.ids:
            found.differences.append(f"other token ids for {entry.text!r}")
    if not golden.logits or not golden.tokens:
        found.differences.append("there is nothing to replay")
    for prompt in golden.prompts:
        if not prompt.messages or not all({"role", "content"} <= set(message) for message in prompt.messages):
            found.differences.append("a recorded prompt has no messages")
        elif not engine.chat_template or _render(engine, prompt.messages) != prompt:
            found.differences.append(f"another prompt for {prompt.messages[-1]['content']!r}")
    for probe in golden.logits:
        _compare(engine, probe, found)
    return found


def read(bundle: Bundle) -> Golden:
    """A bundle's golden.json; ``BundleError`` if it is missing or unsound."""
    path = bundle.folder / GOLDEN
    if not any(file.path == GOLDEN for file in bundle.manifest.files):
        raise BundleError("the bundle has no golden probes", path=path)
    try:
        return msgspec.json.decode(read_bounded(path), type=Golden)
    except MALFORMED as error:
        raise BundleError("the golden probes are unsound", path=path, found=str(error)) from error


def _compare(engine: Engine, probe: Logits, found: Replay) -> None:
    logits = _logits(engine, probe.ids)
    if any(not 0 <= token < len(logits) for token, _ in probe.top) or not probe.top:
        found.differences.append("a probe names tokens that the model doesn't have")
        return
    largest = max(abs(float(logits[token]) - value) for token, value in probe.top)
    found.largest = max(found.largest, largest)
    best, expected = int(logits.argmax()), probe.top[0][0]
    if not largest <= TOLERANCE or not float(logits[best] - logits[expected]) <= TOLERANCE:
        found.differences.append(
            f"after {len(probe.ids)} tokens: token {best} leads instead of {expected}, logits differ by {largest:.3f}"
        )


def _render(engine: Engine, messages: list[dict[str, str]]) -> Prompt:
    from edgekit import chat

    text = chat.render(
        engine.chat_template or "", messages, bos_token=engine.bos_token, eos_token=engine.eos_token, now=WHEN
    )
    return Prompt(messages, text, engine.tokenize(text, special=True))


def _logits(engine: Engine, ids: list[int]) -> Any:
    from edgekit.runtimes.engine import Run

    engine.drop(0)
    logits = engine.decode([Run(0, ids, (len(ids) - 1,))])[0]
    engine.drop(0)
    return logits


def _top(engine: Engine, ids: list[int], allow_nonfinite: bool) -> list[tuple[int, float]]:
    import numpy as np

    logits = _logits(engine, ids)
    finite = np.isfinite(logits)
    if not finite.all() and (not allow_nonfinite or finite.sum() < TOP):
        raise InputError(
            "the model gives logits that aren't finite", found="an infinity or a NaN after a probe"
        )
    logits = np.where(finite, logits, -np.inf)
    order = np.lexsort((np.arange(len(logits)), -logits))[:TOP]
    return [(int(token), round(float(logits[token]), 4)) for token in order]


def save(golden: Golden, folder: Path) -> None:
    """Write golden.json."""
    (folder / GOLDEN).write_bytes(msgspec.json.format(msgspec.json.encode(golden), indent=1) + b"\n")
