"""A fitted map from the evidence of an answer to the chance that each field, and the whole record, is right.

Evaluated in plain Python: an answer of five fields takes a few microseconds.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import mul
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgekit.confidence import Answer, log_odds
from edgekit.errors import BundleError, EdgekitError
from edgekit.files import MALFORMED, read_bounded

if TYPE_CHECKING:
    from edgekit.bundle import Bundle, Manifest

CONFIDENCE: Final = "confidence.json"
VERSION: Final = 1
AGAIN: Final = "run edgekit calibrate-confidence again"
LEAF_WEIGHTS: Final = 5
"""Intercept, log-odds of the value, margin, null, not in the text: see ``Evidence.features``."""
RECORD_WEIGHTS: Final = 4
"""Intercept, log-odds of the product of the fields' chances, of the smallest, log-probability of the structure."""
RISING: Final = (1, 2)
"""Weights of both kinds that can't be negative: what the model holds likelier never becomes less sure."""
_SIZE: Final = 4 << 20
_INDEX: Final = re.compile(r"\[[0-9]+\]")


class Curve(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Weights of a logistic curve and the number of labelled cases behind it, which bounds how sure it can be."""

    weights: list[float]
    cases: int

    def chance(self, features: Sequence[float]) -> float:
        """Between 1/(cases + 2) and 1 - 1/(cases + 2): nothing is surer than the data can show."""
        score = sum(map(mul, self.weights, features))
        least = 1 / (self.cases + 2)
        chance = 1 / (1 + math.exp(-score)) if score > -700 else 0.0
        return least if chance < least else min(chance, 1 - least)


class FittedFor(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """SHA-256 of what a map was fitted for; it means nothing for anything else."""

    model: str
    output_schema: str
    prompt: str


class ConfidenceMap(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """confidence.json: a curve for every field that had enough cases, one for all others, one for whole records."""

    schema_version: int
    fitted_for: FittedFor
    pooled: Curve
    fields: dict[str, Curve]
    overall: Curve

    def __post_init__(self) -> None:
        for name, curve, count in [
            ("pooled", self.pooled, LEAF_WEIGHTS),
            ("overall", self.overall, RECORD_WEIGHTS),
            *((f"fields.{field}", curve, LEAF_WEIGHTS) for field, curve in self.fields.items()),
        ]:
            if len(curve.weights) != count or not all(abs(weight) <= 1e6 for weight in curve.weights):
                raise ValueError(f"{name}: expected {count} finite weights")
            if curve.cases < 1 or any(curve.weights[index] < 0 for index in RISING):
                raise ValueError(f"{name}: expected cases, and weights that don't fall with the log-odds")

    def apply(self, answer: Answer) -> tuple[dict[str, float], float]:
        """Chance of being right by leaf path, and of the whole record."""
        fields, pooled = self.fields, self.pooled
        chances = {
            leaf.path: fields.get(field_of(leaf.path), pooled).chance(leaf.features())
            for leaf in answer.leaves
        }
        return chances, self.overall.chance(record_features(chances.values(), answer.structure))


def record_features(chances: Any, structure: float) -> tuple[float, float, float, float]:
    """What a record's curve weighs: 1 and, from its fields' chances (one or more, each above 0)."""
    together = sum(map(math.log, chances))
    return 1.0, log_odds(together), log_odds(math.log(min(chances))), structure


@lru_cache(4096)
def field_of(path: str) -> str:
    """The field that a leaf belongs to: items of an array are alike, so ``items[3].price`` is ``items[].price``."""
    return _INDEX.sub("[]", path)


def digest_of_schema(schema: Mapping[str, Any] | None) -> str:
    """SHA-256 of a schema with its keys in their order, which is the order of the answer."""
    return _digest(schema)


def digest_of_prompt(prompt: str | None, system: str | None) -> str:
    """SHA-256 of a prompt template together with the system text."""
    return _digest([prompt, system])


def digest_of_model(manifest: Manifest) -> str:
    """SHA-256 of the model's file, or of the digests of its files."""
    from edgekit.bundle import model_files

    found = [file.sha256 for file in model_files(manifest)]
    return found[0] if len(found) == 1 else _digest(found)


def _digest(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def fitted_for(manifest: Manifest) -> FittedFor:
    """What a map for this bundle is fitted for."""
    return FittedFor(
        digest_of_model(manifest),
        digest_of_schema(manifest.output_schema),
        digest_of_prompt(manifest.prompt, manifest.system),
    )


def load_confidence(bundle: Bundle) -> ConfidenceMap | None:
    """The bundle's map, its digest checked on the bytes that are read; None where it has none.

    Raises ``BundleError`` for a map that is damaged, unsound, or fitted for another model, schema or prompt.
    """
    manifest, path = bundle.manifest, bundle.folder / CONFIDENCE
    entry = next((file for file in manifest.files if file.path == CONFIDENCE), None)
    if entry is None or manifest.confidence is None:
        if entry is None and manifest.confidence is None:
            return None
        found = "its figures" if entry is None else f"{CONFIDENCE} without figures"
        raise BundleError("the manifest has half of a calibration", path=path, found=found, next_step=AGAIN)
    try:
        data = read_bounded(bundle.path_of(entry), _SIZE)
    except EdgekitError as error:
        raise BundleError(error.what, path=path, found=error.found, expected=error.expected) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        raise BundleError(
            "the confidence map is not what was fitted",
            path=path,
            found=f"SHA-256 {digest[:16]}…",
            expected=f"{entry.sha256[:16]}…",
            next_step="copy the bundle again",
        )
    return _checked(_decode(data, path), manifest, path)


def _decode(data: bytes, path: Any) -> ConfidenceMap:
    try:
        version = msgspec.json.decode(data, type=_Versioned).schema_version
        if version != VERSION:
            raise BundleError(
                "made for another version of edgekit",
                path=path,
                found=f"schema_version {version}",
                expected=str(VERSION),
                next_step="pip install --upgrade edgekit" if version > VERSION else AGAIN,
            )
        return msgspec.json.decode(data, type=ConfidenceMap)
    except MALFORMED as error:
        raise BundleError(
            "the confidence map is unsound", path=path, found=str(error), next_step=AGAIN
        ) from error


class _Versioned(msgspec.Struct):
    schema_version: int


def _checked(read: ConfidenceMap, manifest: Manifest, path: Any) -> ConfidenceMap:
    wanted = fitted_for(manifest)
    for name, one, other in zip(
        ("model", "output schema", "prompt"),
        msgspec.structs.astuple(read.fitted_for),
        msgspec.structs.astuple(wanted),
        strict=True,
    ):
        if one != other:
            raise BundleError(
                f"the confidence map was fitted for another {name}",
                path=path,
                found=f"SHA-256 {one[:16]}…",
                expected=f"{other[:16]}…",
                next_step=AGAIN,
            )
    return read
