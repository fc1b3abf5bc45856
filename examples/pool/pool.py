"""A thread pool: eight workers ask one model, which makes their answers together; one of them streams its own.

Run: python examples/pool/pool.py dist/restaurant-q4_k_m
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import edgekit

WORKERS = 8
TEXTS = (
    "A table for 2 adults tomorrow at 7:30 pm please",
    "My name is Zoe Miller and we are six",
    "20th jan",
    "I need a table in 13 days",
    "do you have gluten free options",
    "for five people at 8pm",
    "this is Bob Stone, tonight at 9",
    "next friday for 3",
)


def streamed(model: edgekit.Model, text: str, say: Callable[[str], None]) -> str:
    """The answer to one text as JSON, said piece by piece while the other workers' answers are made."""
    pieces = []
    for piece in model.stream(model.extraction_prompt(text), schema=model.schema):
        say(piece)
        pieces.append(piece)
    return "".join(pieces)


def main(bundle: str) -> None:
    """Eight prompts from eight threads; results in the order of the texts, not of their arrival."""
    with edgekit.load(bundle, n_parallel=WORKERS) as model, ThreadPoolExecutor(WORKERS) as workers:
        aloud = workers.submit(streamed, model, TEXTS[-1], lambda piece: print(piece, end="|", flush=True))
        others = workers.map(model.extract, TEXTS[:-1])
        aloud.result()
        print()
        for text, found in zip(TEXTS, others, strict=False):
            print(text, "->", found.failure or found.data)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "dist/restaurant-q4_k_m")
