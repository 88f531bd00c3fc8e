"""Predictions of cost: shapes from a config, counts that hold to real models, the script as a user runs it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 48,
    "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "dtype": "float32",
}  # fmt: skip


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cost_shapes

    return cost_shapes


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cost_plan

    return cost_plan


@pytest.fixture
def rate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cost_steps

    return lambda power, *points: cost_steps.Rate("a step", "row", "inputs", power, points)


@pytest.mark.parametrize(("preset", "billions"), [("llama-1b", 1.236), ("llama-7b", 6.738), ("llama-70b", 68.98)])
def test_presets_have_the_published_sizes(shapes: ModuleType, preset: str, billions: float) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    _, settings = shapes.read_config(preset)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=1e-3)


def test_shapes_are_those_of_the_model_that_is_pruned(shapes: ModuleType) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from hybrid_icbs.layerwise.grams import layer_groups, matrix_of
    from hybrid_icbs.models.layers import find_layers

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY)).eval()
    groups = layer_groups(model, find_layers(model, in_blocks=True), {"input_ids": torch.zeros(1, 8, dtype=torch.long)})
    found = shapes.shapes_of("tiny", TINY, length=8)
    assert [block.name for block in found.blocks] == [group.name for group in groups]
    for block, group in zip(found.blocks, groups, strict=True):
        expected = {layer.name.removesuffix(".weight"): tuple(matrix_of(layer).shape) for layer in group.layers}
        assert {matrix.name: (matrix.rows, matrix.inputs) for matrix in block.matrices} == expected
        assert len({matrix.source for matrix in block.matrices}) == 4  # queries, keys and values share; gate and up too
    assert found.parameters == sum(p.numel() for p in model.parameters())


def test_operations_are_two_a_weight_and_those_of_attention(shapes: ModuleType) -> None:
    found = shapes.shapes_of("tiny", TINY, length=32)
    block = found.blocks[0]
    assert block.forward == 2 * sum(matrix.size for matrix in block.matrices) + 4 * 32 * 48
    assert found.head >= 2 * 48 * 64


def test_activations_are_those_that_a_real_pass_keeps(shapes: ModuleType) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from hybrid_icbs.data.losses import next_token_loss

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY)).eval()
    for name, p in model.named_parameters():
        p.requires_grad_("proj" in name)
    own, held = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(4, 32, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        next_token_loss(model(input_ids=ids, use_cache=False), ids).sum()
    kept = sum(tensor.untyped_storage().nbytes() for place, tensor in held.items() if place not in own)
    found = shapes.shapes_of("tiny", TINY, length=32, sequences=4)
    assert found.kept == kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**TINY, "architectures": ["ViTForImageClassification"]}, "language models"),
        ({**TINY, "quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({**TINY, "model_type": "no-such-model"}, "transformers makes no model"),
        (
            {**TINY, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 2},
            "experts of a mixture",
        ),
    ],
)
def test_models_that_are_not_pruned_are_refused_by_name(
    shapes: ModuleType, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        shapes.shapes_of("a model", settings, length=16)


def test_seconds_grow_with_theory_past_the_measured_sizes_and_never_more_slowly(rate: Any) -> None:
    as_theory = rate(2, (10.0, 1.0), (20.0, 4.0), (40.0, 16.0))
    assert as_theory.held_out == pytest.approx(1.0)
    assert as_theory.seconds(30.0) == pytest.approx(9.0)
    assert as_theory.seconds(400.0) == pytest.approx(1600.0)
    warming_up = rate(2, (10.0, 1.0), (20.0, 2.0), (40.0, 4.0))  # faster with size: not to be relied on further up
    assert warming_up.slope == pytest.approx(1.0)
    assert warming_up.seconds(400.0) == pytest.approx(400.0)
    more_steps = dataclasses.replace(rate(1, (10.0, 1.0), (20.0, 4.0), (40.0, 16.0)), iterated=True)
    assert more_steps.seconds(400.0) == pytest.approx(1600.0)


def test_wide_layers_are_searched_by_windows_and_refitted_iteratively(shapes: ModuleType, plan: ModuleType) -> None:
    settings = plan.Settings(update="backsolve", length=32)
    narrow = plan.work_of(shapes.shapes_of("tiny", TINY, length=32), settings)
    wide = plan.work_of(shapes.shapes_of("wide", {**TINY, "intermediate_size": 1040}, length=32), settings)
    assert {"search refitted", "refit exactly"} <= {each.step for each in narrow}
    assert not {"search a window", "refit iteratively"} & {each.step for each in narrow}
    assert {"search a window", "refit iteratively"} <= {each.step for each in wide}


def test_a_model_that_is_twice_as_deep_takes_twice_the_row_search(shapes: ModuleType, plan: ModuleType) -> None:
    def searched(layers: int) -> float:
        found = shapes.shapes_of("tiny", {**TINY, "num_hidden_layers": layers}, length=32)
        return sum(each.count for each in plan.work_of(found, plan.Settings(length=32)) if each.step == "search")

    assert searched(4) == 2 * searched(2)


@pytest.mark.slow
def test_the_script_measures_and_predicts(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY), "utf-8")
    rates = str(tmp_path / "rates.json")
    first = _run(
        str(config), "--measure", "--ladder", "16,32", "--rates", rates, "--length", "32", "--dtype", "float32"
    )
    assert first.returncode == 0, first.stderr
    assert "| refit iteratively | row | inputs |" in first.stdout
    assert "peak of memory" in first.stdout
    again = _run(str(config), "--overview", "--rates", rates, "--length", "32")
    assert again.returncode == 0, again.stderr
    assert "| icbs, joint, global, refit |" in again.stdout
    assert "| loss, 60 blocks of 4096, checkpointed |" in again.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("no/such/folder",), "no such file"),
        (("--rates", "nowhere.json"), "--measure"),
        (("--objective", "loss", "--update", "backsolve"), "by layer only"),
    ],
)
def test_wrong_use_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import predict_cost

    rates = tmp_path / "rates.json"
    machine = {"threads": 1, "length": 512, "torch": torch.__version__}
    rates.write_text(json.dumps({"machine": machine, "rates": []}), "utf-8")
    with pytest.raises(SystemExit) as ended:
        predict_cost.main(["--rates", str(rates), *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "predict_cost.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)
