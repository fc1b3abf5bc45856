"""Merge adapters into a base while it streams: rows of what each tensor becomes, in float32, never stored."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgekit.converters.adapter import Adapter, same_bytes
from edgekit.converters.adapter_parts import Saved
from edgekit.converters.changes import Change, LowRank, Part, Product, TokenValues, joined
from edgekit.converters.fit import Fit
from edgekit.converters.places import HEAD, input_embedding, is_tied
from edgekit.errors import AdapterError
from edgekit.tensors import ALL, Float32, TensorInfo, TensorSource, span, turned

FACTORS_CACHED = 4
"""Tensors whose factors are kept at once; threads work on neighbouring chunks."""


class Merged:
    """A base with adapters merged in, as a ``TensorSource``; raises ``AdapterError`` if anything doesn't fit."""

    def __init__(self, base: TensorSource, adapters: Sequence[tuple[Adapter, float]]) -> None:
        self.base = base
        self._starts: dict[str, tuple[Adapter, Saved]] = {}
        self._parts: dict[str, list[Part]] = {}
        self._adapters = [adapter for adapter, _ in adapters]
        self._notes: list[str] = []
        self._tied = is_tied(base)
        self._embedding = input_embedding(base.names())
        for adapter, weight in adapters:
            self._add(adapter, Fit(adapter, base, weight))
        self._check_together()
        head, ours = self._chain(HEAD), self._chain(self._embedding or "")
        self._untied = self._tied and head != ours
        if self._tied and not self._untied:
            self._starts.pop(HEAD, None)
            self._parts.pop(HEAD, None)
        self._names = (*base.names(), HEAD) if self._untied else tuple(base.names())
        self.config: Mapping[str, Any] = self._config()
        self._lock = threading.Lock()
        self._loaded = lru_cache(FACTORS_CACHED)(self._load)

    @property
    def untied(self) -> bool:
        """Whether the merge gave the output head weights of its own."""
        return self._untied

    @property
    def changed(self) -> Sequence[str]:
        """Names of the tensors that the adapters change or replace."""
        return tuple(sorted({*self._parts, *self._starts}))

    @property
    def resized_by(self) -> Path | None:
        """The folder of the adapter that gave the vocabulary another size, if one did."""
        if self._embedding not in self._starts or self.info(self._embedding).rows == self._rows_of_base():
            return None
        return self._starts[self._embedding][0].folder

    @property
    def tokenizer(self) -> Path | None:
        """The adapter's folder that brings the tokenizer of a vocabulary that it resized or trained tokens of."""
        trained = [a.folder for a in self._adapters if a.tokens or a.folder == self.resized_by]
        found = [folder for folder in trained if (folder / "tokenizer.json").exists()]
        return self.resized_by if self.resized_by in found else next(iter(found), None)

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know of the merge although it works."""
        notes = [f"{adapter.folder.name}: {note}" for adapter in self._adapters for note in adapter.notes]
        notes += self._notes
        if self.resized_by and not self.tokenizer:
            rows = self.config["vocab_size"]
            notes.append(
                f"{self.resized_by.name}: resized the vocabulary to {rows} rows and brings no tokenizer.json; the "
                "base's tokenizer is used"
            )
        return notes

    def names(self) -> Sequence[str]:
        return self._names

    def info(self, name: str) -> TensorInfo:
        if name in self._starts:
            adapter, saved = self._starts[name]
            return adapter.info(saved.name)
        return self.base.info(self._stored(name))

    def read(self, name: str, rows: slice = ALL, out: Float32 | None = None) -> Float32:
        start, stop = span(rows, self.info(name).rows)
        out = self._unchanged(name, start, stop, out)
        if name in self._parts:
            with self._lock:
                changes = self._loaded(name)
            for change in changes:
                change.apply(out, start, stop)
        return out

    def read_columns(self, name: str, columns: slice = ALL, out: Float32 | None = None) -> Float32:
        parts = self._parts.get(name, ())
        if name in self._starts or not all(isinstance(part, Product) and part.transposed for part in parts):
            return turned(self, name, columns, out)
        out = self.base.read_columns(self._stored(name), columns, out)
        if parts:
            with self._lock:
                changes = self._loaded(name, by_columns=True)
            start, stop = span(columns, self.info(name).shape[1])
            for change in changes:
                change.apply(out, start, stop)
        return out

    def prefetch(self, name: str, rows: slice = ALL) -> None:
        if name not in self._starts:
            self.base.prefetch(self._stored(name), rows)

    def _unchanged(self, name: str, start: int, stop: int, out: Float32 | None = None) -> Float32:
        if name in self._starts:
            adapter, saved = self._starts[name]
            return adapter.read(saved.name, start, stop, out)
        return self.base.read(self._stored(name), slice(start, stop), out)

    def _stored(self, name: str) -> str:
        """Where the base keeps a tensor: a tied head is its input embedding."""
        return self._embedding if name == HEAD and self._tied and self._embedding else name

    def _rows_of_base(self) -> int:
        return self.base.info(self._embedding).shape[0] if self._embedding else 0

    def _chain(self, name: str) -> tuple[object, Sequence[Part]]:
        return self._starts.get(name), self._parts.get(name, [])

    def _add(self, adapter: Adapter, fit: Fit) -> None:
        if problems := [*adapter.problems, *fit.problems]:
            raise refusal(adapter, problems)
        self._notes += [f"{adapter.folder.name}: {note}" for note in fit.notes]
        for name, saved in fit.starts.items():
            if name not in self._starts:
                self._starts[name] = (adapter, saved)
                continue
            other, its = self._starts[name]
            trained = saved.asked or its.asked
            if trained or not same_bytes(adapter, saved.name, other, its.name):
                raise refusal(adapter, [f"{name} is replaced by {other.folder} too"])
        for name, parts in fit.parts.items():
            self._parts.setdefault(name, []).extend(parts)

    def _check_together(self) -> None:
        """What each adapter may do alone, but not beside the others."""
        for name, parts in self._parts.items():
            last = parts[-1].adapter
            if len(parts) > 1 and any(isinstance(p, Product) and p.pair.magnitude for p in parts):
                raise refusal(
                    last, [f"{name}: DoRA sets its rows' lengths, so no other adapter can be added to it"]
                )
            tokens = [p for p in parts if isinstance(p, TokenValues)]
            if tokens and len(tokens) < len(parts):
                raise refusal(last, [f"{name}: one adapter replaces its rows and another adds to them"])
            if len({i for p in tokens for i in p.indices}) < sum(len(p.indices) for p in tokens):
                raise refusal(last, [f"{name}: two adapters trained the same tokens"])
            rows = self.info(name).rows
            for part in parts:
                if isinstance(part, Product) and rows != part.adapter.shape(part.pair)[part.transposed]:
                    raise refusal(part.adapter, [f"{name}: another adapter gives it {rows} rows"])
        heads = HEAD if self._tied or HEAD in self.base.names() else self._embedding
        if self._embedding and heads and self.info(heads).rows != self.info(self._embedding).rows:
            raise AdapterError("the adapters leave the embedding and the head with different vocabularies")

    def _config(self) -> Mapping[str, Any]:
        """The base's, as it is after the merge."""
        config = dict(self.base.config)
        if self._untied:
            config["tie_word_embeddings"] = False
        if self.resized_by and self._embedding:
            rows = self.info(self._embedding).shape[0]
            config["vocab_size"] = rows
            if isinstance(inner := config.get("text_config"), dict):
                config["text_config"] = {**inner, "vocab_size": rows}
        return config

    def _load(self, name: str, by_columns: bool = False) -> Sequence[Change]:
        """The changes of a tensor, those that add products as one; ``by_columns`` to its columns as rows."""
        info = self.info(name)

        def unchanged(start: int, stop: int) -> Float32:
            return self._unchanged(name, start, stop)

        parts = self._parts[name]
        if by_columns:
            parts = [part.turned() if isinstance(part, Product) else part for part in parts]
        changes = [part.load(unchanged, info) for part in parts]
        products = [change for change in changes if isinstance(change, LowRank)]
        others = [change for change in changes if not isinstance(change, LowRank)]
        return [joined(products), *others] if products else others


def refusal(adapter: Adapter, problems: Sequence[str]) -> AdapterError:
    """An adapter that can't be used with its base, and the first reasons why."""
    shown = [*problems[:5], *([f"and {len(problems) - 5} more"] if len(problems) > 5 else [])]
    return AdapterError(
        "the adapter can't be merged",
        path=adapter.folder,
        found="; ".join(shown),
        expected=f"an adapter for this base (it names {adapter.base_name or 'no base'})",
        next_step="edgekit inspect ADAPTER --base BASE lists everything",
    )
