"""The whole pipeline: what a build leaves, that it is the same every time, and that failures leave nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit import build as pipeline
from edgekit import files, golden, worker
from edgekit.bundle import Bundle
from edgekit.errors import AdapterError, EdgekitError, InputError, UnsupportedModelError
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from tests.conftest import ADAPTER, BASE, ROOT
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_a_bundle_per_quantization_that_verifies_and_replays(bundles: Path) -> None:
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    for name, kind in (
        ("restaurant-q8_0", "Q8_0"),
        ("restaurant-q4_k_m", "Q4_K_M"),
        ("restaurant-f32", "F32"),
    ):
        opened = Bundle.open(bundles / name)
        assert opened.manifest.quantization == kind
        assert opened.problems() == []
        assert opened.manifest.output_schema is not None and "{text}" in (opened.manifest.prompt or "")
        engine = LlamaCppEngine(opened.artifact, LlamaCppOptions(n_ctx=512))
        try:
            found = golden.replay(engine, golden.read(opened))
        finally:
            engine.close()
        assert found.differences == [] and found.largest <= 1e-4 and found.probes >= 10


def test_the_same_inputs_give_the_same_bytes(spec: BuildSpec, tmp_path: Path) -> None:
    pipeline.build(spec)
    first = tree(spec.out)
    moved = tmp_path / "elsewhere" / "deeper"
    moved.mkdir(parents=True)
    shutil.copytree(spec.base, moved / "base")
    shutil.copytree(spec.adapters[0][0], moved / "lora")
    again = replace(
        spec, base=moved / "base", adapters=((moved / "lora", 1.0),), out=tmp_path / "two", threads=1
    )
    pipeline.build(again)
    assert tree(tmp_path / "two") == first
    text = (spec.out / "tiny-q8_0" / "manifest.json").read_text()
    assert str(tmp_path) not in text and os.uname().nodename not in text


def test_merged_weights_are_what_the_artifact_holds(bundles: Path) -> None:
    from edgekit.converters.adapter import Adapter
    from edgekit.converters.checkpoint import Checkpoint
    from edgekit.converters.lora import Merged

    merged = Merged(Checkpoint(BASE), [(Adapter(ADAPTER), 1.0)])
    reader = gguf.GGUFReader(bundles / "restaurant-f32" / "model.gguf")
    stored = {tensor.name: tensor.data for tensor in reader.tensors}
    expected = merged.read("model.layers.2.mlp.up_proj.weight")
    np.testing.assert_allclose(stored["blk.2.ffn_up.weight"], expected, rtol=1e-6, atol=1e-8)


def test_greedy_answers_are_those_of_peft_and_transformers(bundles: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    import warnings

    from edgekit.model import load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        model = peft.PeftModel.from_pretrained(model, ADAPTER).merge_and_unload().eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    cases = [
        json.loads(line) for line in (ROOT / "examples/restaurant/task/test.jsonl").read_text().splitlines()
    ]
    prompt = (ROOT / "examples/restaurant/task/prompt.txt").read_text().rstrip("\n")
    with load(bundles / "restaurant-f32") as ours:
        for case in cases[:8]:
            content = prompt.replace("{text}", case["text"])
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            with torch.no_grad():
                out = model.generate(**ids, max_new_tokens=64, do_sample=False, pad_token_id=1)
            expected = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
            assert ours.generate(content, max_tokens=64) == expected


def test_provenance_names_every_file_and_its_digest(spec: BuildSpec) -> None:
    import hashlib

    built = pipeline.build(replace(spec, licence="Apache-2.0", version="2.0", counter=7))
    manifest = Bundle.open(built[0].folder).manifest
    assert (manifest.version, manifest.counter, manifest.provenance.licence) == ("2.0", 7, "Apache-2.0")
    listed = {file.path: file.sha256 for file in manifest.provenance.base.files}
    assert set(listed) == {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    for name, digest in listed.items():
        assert digest == hashlib.sha256((spec.base / name).read_bytes()).hexdigest()
    assert manifest.provenance.adapters[0].weight == 1.0
    assert "llama-cpp-python" in manifest.provenance.tools


def test_memory_grows_with_context_and_covers_the_weights(bundles: Path) -> None:
    manifest = Bundle.open(bundles / "restaurant-q8_0").manifest
    memory = {int(context): nbytes for context, nbytes in manifest.requirements.memory.items()}
    assert list(memory) == [512, 1024]
    assert memory[512] > 7_900_000
    # 8 layers × 2 key-value heads × 64 × (keys and values) × 2 bytes × 512 tokens, and a wider attention mask
    assert memory[1024] - memory[512] == 8 * 2 * 64 * 2 * 2 * 512 + 512 * 512 * 2


@pytest.mark.parametrize("adapters", [(), ((ADAPTER, 0.5),)])
def test_base_alone_and_weighted(tmp_path: Path, adapters: Any) -> None:
    built = pipeline.build(BuildSpec(BASE, tmp_path, "x", adapters, ("Q8_0",)))
    assert [a.weight for a in built[0].manifest.provenance.adapters] == [w for _, w in adapters]


def test_existing_bundles_stay_without_force(spec: BuildSpec) -> None:
    pipeline.build(replace(spec, quantizations=("Q8_0",)))
    before = tree(spec.out)
    with pytest.raises(InputError, match="exists already"):
        pipeline.build(spec)
    assert tree(spec.out) == before
    pipeline.build(replace(spec, force=True))
    assert sorted(p.name for p in spec.out.iterdir()) == ["tiny-q4_0", "tiny-q8_0"]


def test_a_failing_proof_leaves_nothing(spec: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = worker.Proved(("a", [1], [2]), 3, [383])
    monkeypatch.setattr(worker, "run", lambda _: answer)
    with pytest.raises(InputError, match="the tokenizer would not survive"):
        pipeline.build(spec)
    assert list(spec.out.iterdir()) == []


def test_ends_that_llama_cpp_ignores_are_an_error(spec: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "run", lambda _: worker.Proved(None, 0, [1]))
    with pytest.raises(InputError, match="doesn't stop at"):
        pipeline.build(spec)
    assert list(spec.out.iterdir()) == []


def test_a_full_disk_is_known_before_the_work(spec: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match="not enough room"):
        pipeline.build(spec)
    assert not spec.out.exists()


def test_a_disk_that_fills_up_mid_write_leaves_nothing(spec: BuildSpec) -> None:
    """A limit on file size fails writes as a full disk does."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))\n"
        "sys.argv = ['edgekit', *sys.argv[1:]]\n"
        "from edgekit.cli import main; main()"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", script, "build", str(spec.base), "--quant", "Q8_0", "-o", str(spec.out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "error:" in done.stderr and "Traceback" not in done.stderr and "writing failed" in done.stderr
    assert list(spec.out.iterdir()) == []


def test_an_interrupt_mid_write_leaves_nothing(spec: BuildSpec) -> None:
    class Interrupts(Progress):
        def advance(self, what: str, amount: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.build(spec, Interrupts())
    assert list(spec.out.iterdir()) == []


def test_bad_input_is_found_before_anything_is_written(spec: BuildSpec, tmp_path: Path) -> None:
    other = lora_arrays(llama_config(hidden_size=128, num_attention_heads=8), attention_modules(2))
    cases: list[tuple[BuildSpec, type[EdgekitError]]] = [
        (replace(spec, base=tmp_path / "nowhere"), InputError),
        (replace(spec, adapters=((tmp_path / "nowhere", 1.0),)), InputError),
        (replace(spec, adapters=((write_adapter(tmp_path / "other", other), 1.0),)), AdapterError),
        (replace(spec, quantizations=("Q9",)), InputError),
        (replace(spec, quantizations=("Q8_0", "q8_0")), InputError),
        (replace(spec, tensor_types=("nothing=q8_0",)), InputError),
        (replace(spec, output_schema={"type": "object", "propertys": {}}), InputError),
    ]
    for bad, error in cases:
        with pytest.raises(error):
            pipeline.build(bad)
    config = json.loads((spec.base / "config.json").read_text())
    (spec.base / "config.json").write_text(json.dumps(config | {"architectures": ["FooModel"]}))
    with pytest.raises(UnsupportedModelError):
        pipeline.build(spec)
    assert not spec.out.exists()


@pytest.mark.parametrize(
    ("config", "found", "error"),
    [
        (
            {"architectures": ["FooForCausalLM"], "model_type": "foo"},
            "LlamaForCausalLM",
            UnsupportedModelError,
        ),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "no text_config", InputError),
        ({**llama_config(), "rope_scaling": {"rope_type": "new"}}, "new", UnsupportedModelError),
        (llama_config(), "no weights here", InputError),
    ],
)
def test_the_config_decides_before_there_are_weights(
    spec: BuildSpec, tmp_path: Path, config: dict[str, Any], found: str, error: type[EdgekitError]
) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=found):
        pipeline.build(replace(spec, base=tmp_path / "bare"))


@pytest.mark.parametrize("template", ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
                                      "{{ messages.__class__.__mro__ }}"])  # fmt: skip
def test_hostile_chat_templates_do_not_run(spec: BuildSpec, template: str) -> None:
    path = spec.base / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    with pytest.raises(InputError, match="template"):
        pipeline.build(spec)
    assert list(spec.out.iterdir()) == []


def test_modules_in_a_checkpoints_folder_are_not_imported(
    spec: BuildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tokenizers", "numpy", "msgspec", "edgekit"):
        (spec.base / f"{name}.py").write_text("open('ran', 'w').close()\n")
    monkeypatch.chdir(spec.base)
    pipeline.build(replace(spec, quantizations=("Q8_0",)))
    assert not (spec.base / "ran").exists()


def test_an_error_does_not_wait_for_the_hashes(spec: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bool] = []
    real = files.sha256

    def slow(path: Path, progress: Any) -> str:
        stopped.wait(30)
        hashed.append(stopped.is_set())
        return real(path, progress)

    stopped = threading.Event()
    monkeypatch.setattr("edgekit.build.threading.Event", lambda: stopped)
    monkeypatch.setattr("edgekit.provenance.sha256", slow)
    monkeypatch.setattr(worker, "run", lambda _: worker.Proved(("a", [1], [2]), 3, [383]))
    with pytest.raises(InputError, match="would not survive"):
        pipeline.build(spec)
    assert hashed == [True]  # the first file was given up, the others never begun


def test_nothing_of_torch_is_imported(spec: BuildSpec) -> None:
    """Runs the build in a process where importing torch, transformers or peft is an error."""
    script = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'onnxruntime', 'sentencepiece'): sys.modules[name] = None\n"
        "sys.argv = ['edgekit', *sys.argv[1:]]\n"
        "from edgekit.cli import main; main()"
    )
    arguments = ["build", str(spec.base), "--adapter", str(spec.adapters[0][0]), "-o", str(spec.out)]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
    assert [p.name for p in spec.out.iterdir()] == ["lora-q4_k_m"]
