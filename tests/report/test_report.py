"""edgekit report: what it gathers, what it says, and that nothing in a bundle becomes markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit import bundle, evidence
from edgekit.allocation import Allocation, Candidate
from edgekit.build import build
from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, RuntimeUnavailableError
from edgekit.evaluate import Evaluation, Plan, document, evaluate
from edgekit.evaluation.figures import Change
from edgekit.evaluation.running import Speed
from edgekit.evidence import Evidence, Input, Judged
from edgekit.heat import heat
from edgekit.project import BuildSpec
from edgekit.reliability import Figures, Reliability, Risk
from edgekit.report import facts
from edgekit.report.collect import Entry, collect
from edgekit.report.markdown import markdown
from tests.cli.test_commands import edgekit
from tests.evaluation.conftest import PROMPT, SCHEMA, TEXT, write_task
from tests.models import write_llama

HOSTILE = "<script>alert('x')</script>|`*_"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bundles without evidence, a reference, and an evaluation of two of them."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        base = write_llama(folder / "base")
        types = ("Q8_0", "Q4_0", "Q4_1")
        build(BuildSpec(base, folder / "dist", "tiny", (), types, prompt=PROMPT, output_schema=SCHEMA))
        (reference,) = build(BuildSpec(base, folder / "other", "tiny", (), ("F16",)))
        (folder / "text.txt").write_text(TEXT)
        found = evaluate(
            Plan(
                (folder / "dist/tiny-q8_0", folder / "dist/tiny-q4_0"), reference=reference.folder, speed=False,
                task=write_task(folder / "task.jsonl", 12), text=folder / "text.txt",
            )
        )  # fmt: skip
        bundle.write_json(folder / "eval.json", document(found))
        _publish(folder / "dist/tiny-q4_0", found)
    return folder


def _publish(place: Path, found: Evaluation) -> None:
    """Put an evaluation's figures into a manifest, and names that would be markup."""
    row = next(one for one in found.rows if one.label == place.name)
    assert row.task and row.task.reference
    change = Change(HOSTILE, "lost", {"kind": "tea"}, {"kind": HOSTILE}, {"kind": "milk"})
    flips = msgspec.structs.replace(row.task.reference, changes=[change] * 50, lost=1)
    its = Evidence(
        reference="F16", text=Input("text.txt", "0" * 64), text_figures=row.text,
        task_figures=msgspec.structs.replace(row.task, reference=flips),
        gates=[Judged("kld <= 0.5", 0.25, True), Judged("f1 >= 0.99", 0.5, False)],
    )  # fmt: skip
    figures = Figures(40, 0.9, 0.88, 0.1, 0.02, 0.1, 0.03, 0.02)
    reliable = Reliability(40, 0, 5, "0" * 64, "s", "p", {"kind": figures}, figures, figures,
                           [Risk(0.5, 0.0, 0.9), Risk(1.0, 0.1, 0.4)])  # fmt: skip
    spent = Allocation(
        "bpw <= 4.5", 4.41, {}, "feedback", 1.0, tokens=99, candidates=[Candidate("a", 1, 0.0123, True)]
    )
    manifest = Bundle.open(place).manifest
    changed = msgspec.structs.replace(
        manifest, name=HOSTILE, quality=evidence.plain(its), allocation=spent, confidence=reliable,
        speed=evidence.plain(Speed(1000.0, 123.0, 10**8, 2, 0.0)),
    )  # fmt: skip
    bundle.write_json(place / bundle.MANIFEST, changed)


@pytest.fixture
def entries(dist: Path) -> list[Entry]:
    return collect([dist / "dist"])


class Page(HTMLParser):
    """Tags, and all text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.seen: list[str] = []
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.seen.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.seen))


def test_bundles_smallest_first_with_what_is_known_of_each(entries: list[Entry]) -> None:
    assert [one.label for one in entries] == ["tiny-q4_0", "tiny-q4_1", "tiny-q8_0"]
    known, bare = entries[0], entries[1]
    assert known.kld and known.f1 is not None and known.passed is False and known.reference == "F16"
    assert (bare.measured, bare.kld, bare.f1, bare.passed) == (False, None, None, None)
    cells = dict(zip((one.name for one in facts.COLUMNS), facts.row(known), strict=True))
    assert (cells["decode"], cells["gates"], cells["quantization"]) == ("123", "1 of 2 failed", "Q4_0")
    assert cells["KL divergence"].startswith(f"{known.kld:.4g} ±")
    assert facts.row(bare)[5:] == [facts.NOTHING] * 6


def test_an_evaluation_adds_what_a_bundle_lacks(dist: Path) -> None:
    entries = collect([dist / "dist/tiny-q8_0", dist / "dist"], [dist / "eval.json"])
    assert len(entries) == 3
    rows = {one["label"]: one for one in json.loads((dist / "eval.json").read_text())["bundles"]}
    for one in entries:
        if one.label in rows:
            assert one.kld == rows[one.label]["measured"]["kld"]
            assert one.reference == "F16"
    assert [one.measured for one in entries] == [True, False, True]


def test_flips_are_shown_side_by_side_and_bounded(entries: list[Entry]) -> None:
    shown, more = facts.flips(entries[0])
    assert (len(shown), more) == (facts.FLIPS, 50 - facts.FLIPS)
    assert shown[0].rows == [("kind", "tea", HOSTILE, "milk", True)]


def test_heat_has_a_row_for_each_layer() -> None:
    found = heat({"blk.1.ffn_up.weight": "Q4_K", "blk.0.ffn_up.weight": "Q2_K", "blk.0.attn_q.weight": "F16",
                  "blk.0.attn_norm.weight": "F32", "token_embd.weight": "Q6_K"})  # fmt: skip
    assert found.parts == ["attn_q", "ffn_up"]
    assert [(layer, [cell and cell.kind for cell in cells]) for layer, cells in found.layers] == [
        (0, ["F16", "Q2_K"]), (1, [None, "Q4_K"])
    ]  # fmt: skip
    levels = [cell.level for _, cells in found.layers for cell in cells if cell]
    assert levels == [7, 0, 3] and [name for name, _ in found.others] == ["token_embd"]


def test_markdown_says_the_same_and_escapes(entries: list[Entry]) -> None:
    text = markdown(entries, HOSTILE)
    assert "<script>" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == len(facts.COLUMNS) + 1 for line in table[:5])
    assert "**failed**" in text and "f1 \\>= 0.99" in text
    assert "Not measured: tiny-q4_1, tiny-q8_0" in text


def page(entries: list[Entry], title: str = "T") -> str:
    pytest.importorskip("matplotlib")
    from edgekit.report.page import page as made

    return made(entries, title)


def test_the_page_needs_nothing_else_and_runs_nothing(dist: Path) -> None:
    entries = collect([dist / "dist"], [dist / "eval.json"])
    text = page(entries, HOSTILE)
    found = Page(text)
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed"}
    for _, attrs in found.tags:
        for name, value in attrs.items():
            assert not name.startswith("on")
            assert name not in {"href", "src", "xlink:href"} or (value or "").startswith("#")
    assert HOSTILE.split("|")[0] in found.text  # as text
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)


def test_the_page_shows_every_part(entries: list[Entry], dist: Path) -> None:
    both = collect([dist / "dist"], [dist / "eval.json"])
    found = Page(page(both)).text
    for part in (
        "What a byte buys",
        "Gates",
        "F1 by field",
        "Answers that changed",
        "Types by layer",
        "Confidence",
    ):
        assert part in found
    assert "Not measured: tiny-q4_1" in found and "1 of 2 failed" in found
    assert "4.41 bits per quantized weight" in found and "KL divergence 0.0123 on 99" in found
    assert found.count("attn_q") == 3
    shown = Page(page(entries)).text
    assert "and 10 more" in shown and "tea" in shown


def test_the_page_is_the_same_twice_and_has_a_dark_side(entries: list[Entry]) -> None:
    text = page(entries)
    assert text == page(entries)
    assert "prefers-color-scheme: dark" in text and "currentColor" in text and "#123454" not in text


@pytest.fixture
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    yield


@pytest.mark.usefixtures("without_matplotlib")
def test_without_matplotlib_it_says_what_to_install(entries: list[Entry]) -> None:
    from edgekit.report.page import page as made

    with pytest.raises(RuntimeUnavailableError, match=r"edgekit\[report\]"):
        made([entries[0], entries[0]], "T")
    assert markdown(entries, "T")


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"{", b'{"bundles": [{"label": 1}]}', b"\xff"])
def test_evaluations_that_are_none(dist: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(InputError, match="not an evaluation"):
        collect([dist / "dist"], [tmp_path / "e.json"])


def test_no_bundles_and_unsound_evidence(dist: Path, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no bundles here"):
            collect([place])
    source = Bundle.open(dist / "dist/tiny-q4_1")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in source.manifest.files:
        (copy / file.path).write_bytes(source.path_of(file).read_bytes())
    wrong: dict[str, Any] = {"reference": 5}
    bundle.write_json(copy / bundle.MANIFEST, msgspec.structs.replace(source.manifest, quality=wrong))
    with pytest.raises(BundleError, match="quality is unsound"):
        collect([tmp_path])


def test_on_the_command_line(dist: Path, tmp_path: Path) -> None:
    said = edgekit("report", dist / "dist", "--markdown", "--title", "Nightly")
    assert said.startswith("## Nightly\n") and "tiny-q4" in said
    edgekit("report", dist / "dist", "--markdown", "-o", tmp_path / "s.md")
    assert "exists already" in edgekit("report", dist / "dist", "--markdown", "-o", tmp_path / "s.md", code=1)
    pytest.importorskip("matplotlib")
    edgekit("report", dist / "dist", "--eval", dist / "eval.json", "-o", tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
