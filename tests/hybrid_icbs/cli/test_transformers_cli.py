"""The command line on transformers models: by folder, on text files, with perplexities; every wrong input explained."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_models import byte_tokenizer, make
from typer.testing import CliRunner

from hybrid_icbs import PruningError
from hybrid_icbs.cli.app import app
from hybrid_icbs.cli.sources import Sources
from hybrid_icbs.data.perplexity import perplexity
from hybrid_icbs.models.loading import load_model

TEXT = "In the beginning was the word, and a dog ran over the hill. " * 40
QUICK = ["--steps", 2, "--block-size", 64, "--batch-size", 8, "--seq-len", 16, "--backend", "sa"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models, texts and what is wrong with others."""
    monkeypatch.chdir(tmp_path)
    for name in ("llama", "bert-masked", "bert-sequence", "vit"):
        make(name).save_pretrained(name)
        if name != "vit":
            byte_tokenizer().save_pretrained(name)
    Path("train.txt").write_text(TEXT)
    Path("test.txt").write_text(TEXT[::-1])
    Path("other.jsonl").write_text("\n".join(json.dumps({"text": TEXT[i : i + 90]}) for i in range(0, 900, 90)))
    pairs = [json.dumps({"text": TEXT[i : i + 5 + i], "label": f"LABEL_{i % 3}"}) for i in range(24)]
    Path("labelled.jsonl").write_text("\n".join(pairs))
    return tmp_path


def call(*arguments: Any, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    return done


def test_a_language_model_is_pruned_on_a_text_and_judged_on_others(folder: Path) -> None:
    command = ["prune", "--model", "llama", "--data", "train.txt", "--density", 0.5, *QUICK, "--out", "run"]
    told = json.loads(call(*command, "--eval", "test.txt", "--eval", "other.jsonl", "--json", "-q").stdout)
    assert told["density"] == 0.5
    for name in ("dense", "start", "result"):
        found = told["test_scores"][name]["perplexity"]
        assert set(found) == {"test.txt", "other.jsonl"}
        assert found["test.txt"]["context"] == 16
    pruned = load_model(str(folder / "run" / "model"))
    measured = perplexity(pruned, TEXT[::-1], byte_tokenizer(), context=16)
    assert told["test_scores"]["result"]["perplexity"]["test.txt"]["value"] == pytest.approx(measured.value, rel=1e-5)
    assert "perplexity of test.txt (context 16)" in (folder / "run" / "README.md").read_text("utf-8")
    shown = call("resume", "run").stdout
    for head in ("test.txt", "other.jsonl", "perplexity,", "context 16"):
        assert head in shown


def test_a_run_on_text_is_stopped_and_resumed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybrid_icbs.blockwise.pruner import Pruner

    command = ["prune", "--model", "llama", "--data", "train.txt", "--density", 0.5, *QUICK, "-q", "--out"]
    call(*command, "whole")

    class Stop(RuntimeError):
        pass

    def stop(self: Pruner, *args: Any) -> None:
        if self.steps:
            raise Stop("stopped")
        merge(self, *args)

    merge = Pruner._merge
    with monkeypatch.context() as patched:
        patched.setattr(Pruner, "_merge", stop)
        call(*command, "part", code=1)
    call("resume", "part", "-q")
    files = [folder / name / "masks.safetensors" for name in ("whole", "part")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("model", "data"), [("bert-masked", "train.txt"), ("bert-sequence", "labelled.jsonl")])
def test_encoders_are_pruned_on_text(folder: Path, model: str, data: str) -> None:
    command = ["prune", "--model", model, "--data", data, "--density", 0.5, *QUICK, "--eval", data, "--out", "run"]
    told = json.loads(call(*command, "--json", "-q").stdout)
    assert (told["test_scores"]["result"]["accuracy"] is None) == (model == "bert-masked")
    assert (folder / "run" / "model" / "tokenizer.json").is_file()


def test_an_image_classifier_is_pruned_on_samples_of_a_function(folder: Path) -> None:
    (folder / "images.py").write_text(
        "import torch\ndef load(): return {'pixel_values': torch.randn(24, 1, 8, 8), 'labels': torch.arange(24) % 10}\n"
    )
    sys.path.insert(0, str(folder))
    try:
        call("prune", "--model", "vit", "--data", "images:load", "--density", 0.5, *QUICK, "--out", "run", "-q")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("images", None)
    assert load_model("run/model").config.num_labels == 10


def test_blocks_of_a_language_model_are_exported(folder: Path) -> None:
    settings = ["--density", 0.5, "--block-size", 32, "--seq-len", 16, "--batch-size", 4]
    call("blocks", "--model", "llama", "--data", "train.txt", *settings, "--out", "blocks", "-q")
    assert (folder / "blocks" / "manifest.json").is_file()


def test_a_data_set_by_name_is_read_by_the_package_datasets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, **options: Any) -> Any:
        asked.append((name, config, options["split"]))
        return iter([{"text": TEXT[:400]}, {"text": ""}, {"text": TEXT[400:]}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    loaded = Sources.named("llama", "org/corpus?config=small", test="org/corpus", seq_len=16).load()
    assert len(loaded.data) > 10
    assert asked == [("org/corpus", "small", "train"), ("org/corpus", None, "test")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "llama has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be found or read"),
        (lambda f: (f / "config.json").write_text('{"model_type": "nothing"}'), "the type 'nothing'"),
        (lambda f: edit(f, auto_map={"AutoModel": "code.Net"}, model_type="net"), "such code is never run"),
        (lambda f: edit(f, architectures=["LlamaModel"]), "is LlamaModel; models for causal"),
        (lambda f: edit(f, quantization_config={"quant_method": "gptq", "bits": 4}), "quantised weights (gptq)"),
        (lambda f: edit(f, hidden_size=32), "cannot be loaded|another shape"),
        (lambda f: edit(f, num_hidden_layers=3), "lacks the weights model.layers.2"),
        (lambda f: (f / "model.safetensors").unlink(), "no .safetensors weights"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "only pytorch_model.bin, which"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 99), "cannot be loaded"),
        (lambda f: cut(f / "model.safetensors"), "cannot be loaded"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_loaded_is_refused_with_the_reason(folder: Path, change: Any, message: str) -> None:
    change(folder / "llama")
    with pytest.raises(PruningError) as caught:
        load_model("llama")
    assert any(part in str(caught.value) for part in message.split("|")), caught.value
    assert "\n" not in str(caught.value)


def edit(folder: Path, **values: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **values}))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "absent.txt does not exist"),
        ("empty.txt", b"", "empty.txt is empty"),
        ("blank.jsonl", b"\n \n", "blank.jsonl is empty"),
        ("latin.txt", "é".encode("latin-1") * 40, "latin.txt is not UTF-8 text (byte 0)"),
        ("short.txt", b"word", "less than two sequences of 16"),
        ("broken.jsonl", b'{"text": "a"}\n{"text"', "line 2, is not JSON"),
        ("number.jsonl", b"7", "line 1: an object is needed"),
        ("keys.jsonl", b'{"title": "a"}', "has the keys title; the text is looked for as 'text', 'content' or"),
        ("mixed.jsonl", b'{"text": "a"}\n{"text": 3}', "record 2: 'text' is 3; a text is needed"),
        ("table.csv", b"a,b\n", "table.csv must be text (.txt or .jsonl)"),
        ("llama", None, "llama is a folder"),
        ("org/corpus", None, "pip install datasets"),
        ("org/corpus?spilt=test", None, "unknown option 'spilt'"),
    ],
)
def test_text_that_cannot_be_read_is_refused_with_the_reason(
    folder: Path, name: str, content: bytes | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    if content is not None:
        (folder / name).write_bytes(content)
    done = call("prune", "--model", "llama", "--data", name, "--density", 0.5, *QUICK, code=2)
    assert message in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("nowhere/at-all", "train.txt", "model 'nowhere/at-all' (no such folder here, and on the Hugging Face hub)"),
        ("no such name", "train.txt", "neither package.module:function"),
        ("vit", "train.txt", "this one is a ViTForImageClassification"),
        ("bert-sequence", "train.txt", "the label is None"),
    ],
)
def test_models_and_data_that_do_not_fit_are_refused_with_the_reason(
    folder: Path, model: str, data: str, message: str
) -> None:
    done = call("prune", "--model", model, "--data", data, "--density", 0.5, *QUICK, code=2)
    assert message in " ".join(done.stderr.split())


def test_a_missing_or_damaged_tokenizer_is_told(folder: Path) -> None:
    (folder / "llama" / "tokenizer.json").write_text("{")
    with pytest.raises(PruningError, match=r"tokenizer of '.*llama' cannot be read"):
        Sources.named("llama", "train.txt").load()
    for file in (folder / "llama").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(PruningError, match=r"has no tokenizer beside it; save one.*tokenizer\.save_pretrained"):
        Sources.named("llama", "train.txt").load()


def test_the_folder_of_a_run_is_told_from_the_model_in_it(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text('{"density": 0.5}')
    shutil.move(folder / "llama", folder / "run" / "model")
    with pytest.raises(PruningError, match="is a run's folder; its model is 'run/model'"):
        load_model("run")


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    edit(folder / "llama", auto_map={"AutoModelForCausalLM": "code.Net"})
    (folder / "llama" / "code.py").write_text("open('ran', 'w')\n")
    assert isinstance(load_model("llama"), torch.nn.Module)  # the library's own class, as its type is known
    assert not (folder / "ran").exists()
