"""The scripted engine that users test with."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.runtimes.engine import Engine, Run
from edgekit.runtimes.fake import FakeEngine


def said(engine: FakeEngine, prompt: str, seq: int = 0, limit: int = 100) -> str:
    tokens = engine.tokenize(prompt, special=True)
    answer = bytearray()
    logits = engine.decode([Run(seq, tokens, (len(tokens) - 1,))])[0]
    while (token := int(logits.argmax())) not in engine.eos_ids and len(answer) < limit:
        answer += engine.token_bytes(token)
        logits = engine.decode([Run(seq, [token], (0,))])[0]
    return answer.decode()


def test_it_is_an_engine() -> None:
    engine: Engine = FakeEngine("x")
    assert engine.n_vocab == 262


def test_scripts() -> None:
    assert said(FakeEngine("always"), "what?") == "always"
    assert said(FakeEngine({"hi": "Grüß dich 😀"}), "hi") == "Grüß dich 😀"
    assert said(FakeEngine(str.upper), "shout") == "SHOUT"


def test_in_a_chat_the_last_user_turn_is_asked() -> None:
    chat = "<|bos|><|user|>one<|end|><|assistant|>1<|end|><|user|>two<|end|><|assistant|>"
    assert said(FakeEngine({"one": "1", "two": "2"}), chat) == "2"


def test_a_prompt_without_an_answer() -> None:
    with pytest.raises(InputError, match="no answer"):
        said(FakeEngine({"hi": "x"}), "ho")


def test_control_tokens_only_on_request() -> None:
    engine = FakeEngine("x")
    assert engine.tokenize("a<|eos|>", special=True) == [97, engine.specials["<|eos|>"]]
    assert engine.tokenize("a<|eos|>", special=False) == list(b"a<|eos|>")
    assert engine.token_bytes(engine.specials["<|eos|>"]) == b""


def test_sequences_share_and_forget() -> None:
    engine = FakeEngine(str.upper, n_seq_max=2)
    engine.decode([Run(0, list(b"ab"))])
    engine.copy_prefix(0, 1, 1)
    assert said(engine, "x", seq=1) == "AX"
    engine.drop(1, 1)
    assert said(engine, "y", seq=1) == "AY"
    assert said(engine, "c", seq=0) == "ABC"


def test_every_token_has_a_rank_of_its_own() -> None:
    logits = FakeEngine("ok").decode([Run(0, [1], (0,))])[0]
    assert len(np.unique(logits)) == len(logits)


def test_bounds() -> None:
    engine = FakeEngine("x", n_ctx=4)
    with pytest.raises(InputError, match="outgrow"):
        engine.decode([Run(0, [1, 2, 3]), Run(0, [4, 5])])
    assert engine.decoded == 0
    with pytest.raises(InputError, match="no such sequence"):
        engine.decode([Run(1, [1])])
    with pytest.raises(InputError, match="no such sequence"):
        engine.drop(-1)
    with pytest.raises(InputError, match="no such prefix"):
        engine.copy_prefix(0, 0, 1)
    engine.close()
    with pytest.raises(InputError, match="closed"):
        engine.tokenize("x", special=False)
