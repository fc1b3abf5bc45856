"""The model card: it says what the manifest says, Hugging Face can read it, and nothing from elsewhere becomes markup."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit import card, evidence
from edgekit.allocation import Allocation, Candidate
from edgekit.build import build
from edgekit.bundle import Bundle, Manifest, read_manifest, write_json
from edgekit.errors import BundleError
from edgekit.evidence import Evidence, Judged, Rung
from edgekit.files import sha256
from edgekit.markdown import block, code, front_matter, paragraph, table, words
from edgekit.project import BuildSpec
from edgekit.trial import Trial
from tests.core.test_orders import device
from tests.evaluation.conftest import PROMPT, SCHEMA, TEXT, cache, write_task  # noqa: F401

HOSTILE = [
    "<script>alert(1)</script>", "[click](http://x)", "![x](http://x/p.png)", "# head", "- item", "1. item", "1) item",
    "***bold***", "_it_", "`code`", "``", "a | b", "~~gone~~", "&lt;b&gt;", "line\n\n---\nkey: value", "\\", "+ x", "= x",
    "\x1b[31mred", "\u202egnp.exe", "$x$", "===", "> quote", "    indented", "`` ` ``|`",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of tea and coffee that was measured, with an adapter, for a device."""
    from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama

    folder = tmp_path_factory.mktemp("card")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        base = write_llama(folder / "base")
        adapter = write_adapter(folder / "lora", lora_arrays(llama_config(), attention_modules(2)))
        (folder / "text.txt").write_text(TEXT)
        task = write_task(folder / "task.jsonl", 12)
        trial = Trial(task, folder / "text.txt", ("kld <= 100", "f1 >= 0"), chunks=2, ctx=64)
        spec = BuildSpec(
            base, folder / "out", "tiny", ((adapter, 0.5),), (), licence="Apache-2.0", prompt=PROMPT, trial=trial,
            output_schema=SCHEMA, intended_use="Orders of *tea*, no others.", devices=(device("laptop-8gb", "Q4_0"),),
        )  # fmt: skip
        return Bundle.open(build(spec)[0].folder)


def test_it_is_a_file_of_the_bundle(made: Bundle) -> None:
    text = (made.folder / "README.md").read_text()
    assert [file.path for file in made.manifest.files] == ["README.md", "golden.json", "model.gguf"]
    assert made.problems() == [] and text == card.render(made.manifest)
    (made.folder / "README.md").write_text(text + " ")
    with pytest.raises(BundleError, match="wrong size"):
        Bundle.open(made.folder)
    (made.folder / "README.md").write_text(text)


def test_it_says_what_the_manifest_says(made: Bundle) -> None:
    text, manifest, found = card.render(made.manifest), made.manifest, evidence.of(made.manifest)
    assert found and found.text and found.task and found.text_figures and found.task_figures
    sources = [manifest.provenance.base, *manifest.provenance.adapters]
    for file in [*(file for source in sources for file in source.files), *manifest.files[2:]]:
        assert f"| `{file.path}` | {file.size:,} | {file.sha256} |" in text
    for said in (
        "adapter, weight 0.5", found.text.sha256, found.task.sha256, "`kld <= 100`", "beside the merged model in F16",
        f"{found.task_figures.micro.f1:.4f}", f"{found.text_figures.ppl.value:.6g}", "Orders of \\*tea\\*, no others.",
        "without an importance matrix", "Built for `laptop-8gb`", PROMPT, '"coffee"', "Apache-2.0, as stated",
    ):  # fmt: skip
        assert said in text
    assert str(made.folder.parent) not in text


def test_hugging_face_reads_it(made: Bundle) -> None:
    hub = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard.load(made.folder / "README.md").data.to_dict()
    assert found == {
        "license": "apache-2.0", "base_model": "base", "base_model_relation": "quantized", "library_name": "gguf",
        "pipeline_tag": "text-generation", "tags": ["gguf", "q4-0", "edgekit"],
    }  # fmt: skip


def test_front_matter_is_yaml_of_the_same_words() -> None:
    yaml = pytest.importorskip("yaml")
    words = [
        *HOSTILE[:-7],
        "yes",
        "null",
        "1.0",
        "0x1",
        "a: b",
        "é",
        "“quoted”",
        "mit",
        "cc-by-4.0",
        "x: #y",
        "",
    ]
    shown = [word.replace("\n", "\\n") for word in words]
    found = yaml.safe_load(front_matter({"key": words[0], "all": words}).strip("-"))
    assert found == {"key": words[0], "all": shown}


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_elsewhere_becomes_markup(text: str) -> None:
    from markdown_it import MarkdownIt

    reader = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    shown = " ".join(text.split())
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
    (_, inline, _) = reader.parse(paragraph(text))
    assert {child.type for child in inline.children or []} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children or []) == shown
    (_, heading, _) = reader.parse(f"# {words(text)}")
    assert "".join(child.content for child in heading.children or []) == shown
    (fence,) = reader.parse(block(text, "json"))
    kept = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    assert fence.type == "fence" and fence.content == kept + "\n"
    (span,) = reader.parse(code(text))[1].children or []
    assert span.type == "code_inline"
    tokens = reader.parse(table(["a", "b"], [[code(text), words(text)]]))
    assert sum(token.type == "td_open" for token in tokens) == 2


def changed(manifest: Manifest, **changes: Any) -> str:
    return card.render(msgspec.structs.replace(manifest, **changes))


def test_what_there_is_none_of(made: Bundle) -> None:
    bare = changed(
        made.manifest, quality=None, prompt=None, output_schema=None, intended_use=None, target=None,
        provenance=msgspec.structs.replace(made.manifest.provenance, licence=None, adapters=[]),
    )  # fmt: skip
    assert "None was stated by those who built it." in bare and "license" not in bare
    assert "It was not measured" in bare and "without a prompt of its own" in bare
    other = msgspec.structs.replace(made.manifest.provenance, licence="Our own: ask")
    assert 'license: other\nlicense_name: "Our own: ask"\n' in changed(made.manifest, provenance=other)
    with pytest.raises(BundleError, match="the manifest's quality is unsound"):
        changed(made.manifest, quality={"gates": 1})


def test_an_allocation_and_a_ladder(made: Bundle) -> None:
    tried = [Candidate("Q4_K_M", 900, 0.02), Candidate("mixed", 880, 0.01, kept=True)]
    spent = Allocation(
        "bpw 4.5", 4.49, {"a": "q4_K", "b": "q4_K", "c": "q6_K"}, "feedback", 1.0, {}, 2048, tried
    )
    text = changed(made.manifest, allocation=spent)
    assert (
        "`bpw 4.5` was asked for, 4.49 bits a weight were spent, rounded with error feedback (GPTQ)." in text
    )
    assert "| `q4_K` | 2 |" in text and "| `mixed` | 880 | 0.01 | yes |" in text
    gate = Judged("kld <= 0.02", 0.03, passed=False, held=0.031)
    steps = [Rung("Q2_K", 700, False, [gate]), Rung("Q4_0", 900, True, [])]
    found = Evidence(None, gates=[Judged("kld <= 0.02", 0.01, passed=True, held=0.011)], ladder=steps)
    text = changed(made.manifest, quality=evidence.plain(found))
    assert "| Q2_K | 700 | `kld <= 0.02` | **failed** |" in text and "| Q4_0 | 900 |  | passed |" in text
    assert "| `kld <= 0.02` | 0.01 | 0.011 | passed |" in text


def test_a_calibrated_bundle_has_a_card_that_says_so(made: Bundle, tmp_path: Path) -> None:
    from edgekit.calibrate import calibrate
    from tests.core.test_calibrate import label, opener
    from tests.core.test_calibrate import write_task as write_labels

    folder = Path(shutil.copytree(made.folder, tmp_path / "bundle"))
    manifest = read_manifest(folder)
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}
    manifest = card.add(folder, msgspec.structs.replace(manifest, output_schema=schema))
    write_json(folder / "manifest.json", manifest)
    before = (folder / "README.md").read_bytes()
    (tmp_path / "linked.md").hardlink_to(folder / "README.md")
    calibrate(folder, write_labels(tmp_path / "labels.jsonl", [label(at) for at in range(120)]), opener)
    opened = Bundle.open(folder)
    assert opened.problems() == [] and (tmp_path / "linked.md").read_bytes() == before
    text = (folder / "README.md").read_text()
    assert "Its confidence was fitted on 108 labelled records" in text and text == card.render(
        opened.manifest
    )


def test_the_same_bytes_each_time(made: Bundle, tmp_path: Path) -> None:
    again = card.add(tmp_path, made.manifest)
    assert again == made.manifest and sha256(tmp_path / "README.md") == made.manifest.files[0].sha256
    assert json.loads((made.folder / "manifest.json").read_text())["intended_use"].startswith("Orders")


def test_a_prompt_that_cannot_end_its_block(made: Bundle, spec: BuildSpec) -> None:
    (one,) = build(replace(spec, quantizations=("Q8_0",), prompt="```\n{text}\n````\n# not a heading"))
    assert "\n`````\n```\n{text}\n````\n# not a heading\n`````\n" in (one.folder / "README.md").read_text()
