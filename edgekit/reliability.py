"""How far a map's confidences can be trusted, as a manifest publishes it."""

from __future__ import annotations

import msgspec


class Figures(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Of one field, of all fields together, or of whole records: held-out cases, before and after calibration.

    ECE is the expected calibration error in 15 bins, of equal mass or equal width.
    """

    cases: int
    accuracy: float
    confidence: float
    """Mean, after calibration."""
    mass_before: float
    mass_after: float
    width_before: float
    width_after: float
    by_chance: float
    """ECE (equal mass) that so many cases would show if every confidence were exactly true."""


class Risk(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Of the ``coverage`` most confident share of records, the share that is wrong, and the least confidence among them."""

    coverage: float
    risk: float
    confidence: float


class Reliability(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The manifest's ``confidence``: how the map did on records that were held out while it was fitted."""

    records: int
    failed: int
    """Records without an answer, which have no confidence and are in no figure."""
    folds: int
    task: str
    """SHA-256 of the labelled file."""
    output_schema: str
    prompt: str
    fields: dict[str, Figures]
    all_fields: Figures
    overall: Figures
    risks: list[Risk]
