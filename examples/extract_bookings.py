"""A script: the fields of many texts, how sure the model is of each, and what can't be had.

Build the bundle first: edgekit build --project examples/restaurant/edgekit.toml
Then: python examples/extract_bookings.py dist/restaurant-q4_k_m [texts.txt]     (a text per line)
"""

import sys
from collections.abc import Iterable
from itertools import tee
from pathlib import Path

import edgekit

UTTERANCES = (
    "A table for 2 adults tomorrow at 7:30 pm please",
    "My name is Zoe Miller and we are six",
    "",
    "word " * 2000,
    "do you have gluten free options",
)
LEAST = 0.5


def show(text: str, found: edgekit.Extraction) -> None:
    """A text with its fields, or the reason why there are none."""
    print(repr(text) if len(text) < 80 else f"{text[:77]!r}...")
    if found.failure is not None:
        print(f"  {found.failure.code}: {found.failure.message}")
        return
    for field, value in found.data.items():
        sure = found.confidence[field]
        print(f"  {field:10} {value!r:16} {sure:.2f}{'  look at this' if sure < LEAST else ''}")


def main(bundle: str, texts: Iterable[str]) -> None:
    """Several texts are in the making at once; they come in order, whatever their number, in bounded memory."""
    asked, shown = tee(texts)  # the second lags behind by the few texts that extract_many reads ahead
    count = review = 0
    with edgekit.load(bundle) as model:
        for text, found in zip(shown, model.extract_many(asked, min_confidence=LEAST), strict=True):
            show(text, found)
            count += 1
            review += found.needs_review
    print(f"{count} texts, {review} to review")


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "dist/restaurant-q4_k_m"
    if len(sys.argv) > 2:
        with Path(sys.argv[2]).open(encoding="utf-8") as lines:
            main(chosen, (line.rstrip("\n") for line in lines))
    else:
        main(chosen, UTTERANCES)
