"""Extract bookings with a bundle: `make demo`-style output from your own code.

Build the bundle first: edgekit build --project examples/restaurant/edgekit.toml
Then: python examples/extract_bookings.py dist/restaurant-q4_k_m
"""

import sys

import edgekit

UTTERANCES = (
    "A table for 2 adults tomorrow at 7:30 pm please",
    "My name is Zoe Miller and we are six",
)


def main(bundle: str) -> None:
    with edgekit.load(bundle) as model:
        for text in UTTERANCES:
            found = model.extract(text)
            print(text, "->", found.data)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "dist/restaurant-q4_k_m")
