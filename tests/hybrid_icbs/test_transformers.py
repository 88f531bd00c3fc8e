"""Transformers models go the same path: scope, losses, per-sample gradients, micro-batches, pruning, saving."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from transformer_models import ALL, CAUSAL, byte_tokenizer, make, samples

from hybrid_icbs import PruningError, UnsupportedLayerError, evaluate, prune
from hybrid_icbs.data.calibration import Batch, CalibrationData
from hybrid_icbs.data.losses import cross_entropy, loss_for
from hybrid_icbs.data.model_data import data_for
from hybrid_icbs.data.perplexity import perplexity
from hybrid_icbs.gradients.passes import GradientPass, measure_gradients
from hybrid_icbs.models.layers import Layer, find_layers

TEXT = "In the beginning was the word, and a dog ran over the hill. " * 40
QUICK = {"density": 0.5, "steps": 2, "block_size": 64, "batch_size": 8, "backend": "sa", "progress": False}


def batch_of(name: str, count: int) -> Batch:
    return data_for(make(name), samples(name, count)).take(np.arange(count))


def own_loss(name: str, model: nn.Module, one: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of one sample as transformers computes it."""
    if name in CAUSAL:
        one = {**one, "labels": one["input_ids"].masked_fill(one["attention_mask"] == 0, -100)}
    return model(**one).loss


def reference(name: str, model: nn.Module, layers: list[Layer], count: int) -> list[np.ndarray]:
    """Gradients of each sample's loss, one backward pass a sample: by layer [weights, N]."""
    batch = samples(name, count)
    found: list[list[torch.Tensor]] = [[] for _ in layers]
    for s in range(count):
        loss = own_loss(name, model, {key: value[s : s + 1] for key, value in batch.items()})
        grads = torch.autograd.grad(loss, [layer.weight for layer in layers])
        for own, grad in zip(found, grads, strict=True):
            own.append(grad.flatten())
    return [torch.stack(own, 1).numpy() for own in found]


def check(
    measured: GradientPass, layers: list[Layer], expected: list[np.ndarray], share: float = 0.5, tolerance: float = 2e-5
) -> None:
    rng = np.random.default_rng(0)
    index = {layer.number: rng.permutation(layer.size)[: int(share * layer.size)] for layer in layers}
    measured.prepare(index)
    for layer, reference in zip(layers, expected, strict=True):
        scale = np.abs(reference).max()
        assert scale > 0
        found = measured.per_sample(layer, index[layer.number])
        np.testing.assert_allclose(found, reference[index[layer.number]], atol=tolerance * scale)
        mean = measured.mean[layer.number].flatten().float().numpy()
        np.testing.assert_allclose(mean, reference.mean(1), atol=tolerance * scale)


@pytest.mark.parametrize("name", ALL)
def test_gradients_by_sample_equal_a_loop_over_samples(name: str) -> None:
    model = make(name)
    layers = find_layers(model)
    measured = measure_gradients(model, layers, batch_of(name, 6), loss_for(model))
    for s, loss in enumerate(measured.losses):
        one = {key: value[s : s + 1] for key, value in samples(name, 6).items()}
        assert float(loss) == pytest.approx(float(own_loss(name, model, one).detach()), rel=1e-5)
    assert measured.passes == 1
    check(measured, layers, reference(name, model, layers, 6))


@pytest.mark.parametrize("name", ["llama", "gpt2", "vit"])
@pytest.mark.parametrize("size", [1, 2, 4, 6])
@pytest.mark.parametrize("passes", [1, 2])
def test_micro_batches_of_any_size_and_two_passes_give_the_same(
    name: str, size: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if passes == 2:
        monkeypatch.setattr("hybrid_icbs.gradients.passes.IN_MEMORY", 0)
    model = make(name)
    layers = find_layers(model)
    measured = measure_gradients(model, layers, batch_of(name, 6), loss_for(model), micro_batch=size)
    assert measured.passes == passes
    check(measured, layers, reference(name, model, layers, 6))


def test_activations_that_are_too_many_to_keep_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    layers = find_layers(model)
    monkeypatch.setattr("hybrid_icbs.gradients.passes.KEPT", 1000)
    measured = measure_gradients(model, layers, batch_of("llama", 6), loss_for(model), micro_batch=2)
    assert measured.passes == 2
    check(measured, layers, reference("llama", model, layers, 6))
    # Unannounced, a layer's gradients take a pass of their own.
    measured = measure_gradients(model, layers, batch_of("llama", 6), loss_for(model), micro_batch=2)
    expected = reference("llama", model, layers, 6)[3]
    np.testing.assert_allclose(
        measured.per_sample(layers[3], np.arange(40)), expected[:40], atol=2e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gradient_checkpointing_gives_the_same(
    name: str, reentrant: bool, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if passes == 2:
        monkeypatch.setattr("hybrid_icbs.gradients.passes.IN_MEMORY", 0)
    model = make(name)
    layers = find_layers(model)
    expected = reference(name, model, layers, 4)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    if name == "gpt2":  # whose blocks drop at random by rates of their own
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
    fired: list[int] = []
    handle = layers[0].modules[0].register_forward_hook(lambda *_: fired.append(1))
    check(measure_gradients(model, layers, batch_of(name, 4), loss_for(model)), layers, expected)
    handle.remove()
    assert len(fired) == 2 * passes, "the layer is recomputed, and its hooks fire again"
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_of_a_model_of_ones_own_give_the_same(reentrant: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)
            self.checkpointed = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.first(x))
            if self.checkpointed:
                h = checkpoint(lambda z: torch.relu(self.a(z)), h, use_reentrant=reentrant)
            else:
                h = torch.relu(self.a(h))
            return self.b(h)

    torch.manual_seed(0)
    model, batch = Net().eval(), Batch(torch.randn(8, 5), torch.arange(8) % 3, 8)
    layers = find_layers(model)
    plain = measure_gradients(model, layers, batch, cross_entropy)
    model.checkpointed = True
    again = measure_gradients(model, layers, batch, cross_entropy)
    for layer in layers:
        index = np.arange(layer.size)
        np.testing.assert_allclose(again.per_sample(layer, index), plain.per_sample(layer, index), atol=1e-6)


@pytest.mark.parametrize("passes", [1, 2])
def test_autocast_in_bfloat16_comes_close_to_float32(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if passes == 2:
        monkeypatch.setattr("hybrid_icbs.gradients.passes.IN_MEMORY", 0)
    model = make("llama")
    layers = find_layers(model)
    with torch.autocast("cpu", torch.bfloat16):
        measured = measure_gradients(model, layers, batch_of("llama", 6), loss_for(model), micro_batch=3)
        check(measured, layers, reference("llama", model, layers, 6), tolerance=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_lose_no_small_gradients(dtype: torch.dtype) -> None:
    model = make("llama")
    layers = find_layers(model)
    expected = reference("llama", model, layers, 6)
    model.to(dtype)
    measured = measure_gradients(model, layers, batch_of("llama", 6), loss_for(model))
    check(measured, layers, expected, tolerance=0.1)
    index = np.arange(layers[0].size)
    found, right = measured.per_sample(layers[0], index), expected[0]
    small = np.abs(right) > 1e-4 * np.abs(right).max()
    assert (found[small] != 0).mean() > 0.99


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("llama", "model.layers.0.mlp.down_proj", "lm_head"),
        ("gpt2", "transformer.h.1.attn.c_attn", "lm_head"),
        ("bert-masked", "bert.encoder.layer.0.output.dense", "cls"),
        ("bert-sequence", "bert.encoder.layer.1.attention.self.query", "classifier"),
        ("vit", "vit.layers.0", "classifier"),
        ("deit", "deit", "cls_classifier"),
    ],
)
def test_by_default_the_layers_of_the_blocks_are_in_scope(name: str, inside: str, outside: str) -> None:
    names = [layer.name for layer in find_layers(make(name))]
    assert any(each.startswith(inside) for each in names), names
    assert not any(outside in each or "embed" in each for each in names)
    assert all(any(part.isdigit() for part in each.split(".")) for each in names)


def test_patterns_choose_among_all_layers() -> None:
    names = [layer.name for layer in find_layers(make("llama"), include=["re:.*mlp.*"])]
    assert len(names) == 6
    assert all(".mlp." in name for name in names)
    assert len(find_layers(make("llama"), exclude=["re:.*mlp.*"])) == 8
    assert [layer.name for layer in find_layers(make("mistral"), include=["lm_head"])] == ["lm_head.weight"]
    with pytest.raises(UnsupportedLayerError, match="embed_tokens"):
        find_layers(make("llama"), include=["lm_head"])  # tied to the embedding


def test_fused_experts_are_refused_by_name() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    with pytest.raises(UnsupportedLayerError, match=r"experts.*fused into one parameter \[2, 32, 16\].*exclude="):
        find_layers(model, exclude=["re:.*gate"])
    with pytest.raises(UnsupportedLayerError) as both:
        find_layers(model)
    assert "is a MixtralTopKRouter" in str(both.value)
    assert "holds the experts of a mixture" in str(both.value)
    names = re.findall(r"'([^']+)'", str(both.value).rpartition("exclude=")[2])
    assert len(find_layers(model, exclude=names)) == 4
    assert len(find_layers(model, exclude=["re:.*mlp.*"])) == 4


def test_quantised_weights_are_refused_by_name() -> None:
    model = make("llama")
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(UnsupportedLayerError, match=r"quantised \(bitsandbytes\).*full precision"):
        find_layers(model)
    model = make("llama")
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(24, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedLayerError, match=r"up_proj\.weight' is quantised \(Linear, int8\)"):
        find_layers(model)


def test_weights_that_are_not_in_memory_are_refused_by_name() -> None:
    model = make("llama")
    model.model.layers[1].mlp.to("meta")
    with pytest.raises(UnsupportedLayerError, match=r"gate_proj\.weight' is not in memory"):
        find_layers(model)


@pytest.mark.parametrize("name", ALL)
def test_pruning_ends_in_an_ordinary_folder_of_the_same_model(name: str, tmp_path: Path) -> None:
    model = make(name).to(torch.bfloat16)
    tokenizer = None if name in ("vit", "deit") else byte_tokenizer()
    result = prune(model, samples(name, 24), tokenizer=tokenizer, out=tmp_path / "run", **QUICK)  # type: ignore[arg-type]
    assert result.density == 0.5
    loaded, told = type(model).from_pretrained(tmp_path / "run" / "model", dtype="auto", output_loading_info=True)
    assert not told["missing_keys"]
    state = dict(loaded.named_parameters())
    for key, mask in result.masks.items():
        assert state[key].dtype == torch.bfloat16
        zeros = state[key] == 0
        assert torch.equal(zeros, ~mask)
        assert not torch.signbit(state[key][zeros]).any()
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert card == (tmp_path / "run" / "model" / "README.md").read_text("utf-8")
    assert f"pruned to density 0.5\n\nA {type(model).__name__} of which" in card
    assert all(f"| {key} |" in card for key in result.masks)
    assert (tmp_path / "run" / "model" / "tokenizer.json").is_file() == (tokenizer is not None)


def test_batches_come_as_dicts_texts_tensors_or_a_loader() -> None:
    model, tokenizer = make("llama"), byte_tokenizer()
    ids = samples("llama", 12)
    short = {key: value[:, :8] for key, value in ids.items()}
    rows = [{key: value[s] for key, value in ids.items()} for s in range(12)]
    for data in (
        ids,
        [ids, short],
        ids["input_ids"],
        DataLoader(rows, batch_size=4),  # type: ignore[arg-type]
        [TEXT, TEXT],
        TEXT,
    ):
        result = prune(model, data, tokenizer=tokenizer, seq_len=12, **QUICK)  # type: ignore[arg-type]
        assert result.density == 0.5
    assert len(CalibrationData([ids, short])) == 24


def test_padding_changes_no_loss() -> None:
    model = make("llama")
    long, short = samples("llama", 4), {key: value[:, :8] for key, value in samples("llama", 4, 8).items()}
    together = measure_gradients(
        model, find_layers(model), data_for(model, [long, short]).take(np.arange(8)), loss_for(model)
    ).losses
    apart = [evaluate(model, {key: value[s : s + 1] for key, value in short.items()}).loss for s in range(4)]
    np.testing.assert_allclose(together[4:].numpy(), apart, rtol=1e-5)


@pytest.mark.parametrize("inplace", [True, False])
def test_a_model_that_is_spread_by_accelerate_is_pruned_alike(inplace: bool, tmp_path: Path) -> None:
    from accelerate import dispatch_model
    from transformers import AutoModelForCausalLM

    make("llama").save_pretrained(tmp_path)
    parts = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head"]
    for settings in (QUICK, {"density": 0.5, "objective": "joint", "update": "backsolve", "progress": False}):
        placed = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="auto")
        spread = dispatch_model(make("llama"), dict.fromkeys(parts, "cpu"), main_device="cpu", force_hooks=True)
        assert hasattr(spread.model.layers[0], "_hf_hook")
        masks = [
            prune(model, samples("llama", 24), inplace=inplace, **settings).masks  # type: ignore[arg-type]
            for model in (make("llama"), placed, spread)
        ]
        for name, mask in masks[0].items():
            assert torch.equal(mask, masks[1][name])
            assert torch.equal(mask, masks[2][name])


def test_restore_values_in_a_file_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for limit in (2**30, 0):
        monkeypatch.setattr("hybrid_icbs.models.restore.IN_MEMORY", limit)
        results.append(prune(make("gpt2"), samples("gpt2", 24), **QUICK).masks)  # type: ignore[arg-type]
    for name, mask in results[0].items():
        assert torch.equal(mask, results[1][name])


@pytest.mark.parametrize(
    ("data", "tokenizer", "message"),
    [
        ([TEXT], False, "need a tokenizer"),
        (["a few words"], True, "less than two sequences of 12"),
        ({"input_ids": torch.zeros(4, 8, dtype=torch.long), "labels": torch.zeros(3)}, False, "one row per sample"),
        ([{"input_ids": torch.zeros(2, 8)}, {"ids": torch.zeros(2, 8)}], False, "have the keywords input_ids"),
        ({}, False, "no keywords"),
        ([{"input_ids": "text"}], False, "a str; a tensor"),
    ],
)
def test_data_that_a_language_model_cannot_take_is_refused(data: object, tokenizer: bool, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        prune(make("llama"), data, tokenizer=byte_tokenizer() if tokenizer else None, seq_len=12, **QUICK)  # type: ignore[arg-type]


def test_texts_and_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PruningError, match="need a language model; this one is a ViTForImageClassification"):
        prune(make("vit"), [TEXT], tokenizer=byte_tokenizer(), **QUICK)  # type: ignore[arg-type]
    with pytest.raises(PruningError, match="seq_len = 64 must be 2 to 32, the model's context"):
        prune(make("llama"), TEXT, tokenizer=byte_tokenizer(), seq_len=64, **QUICK)  # type: ignore[arg-type]
    batch = samples("bert-masked", 24)
    del batch["labels"]
    with pytest.raises(PruningError, match="no labels, which the loss needs"):
        prune(make("bert-masked"), batch, **QUICK)  # type: ignore[arg-type]
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"word{n}" for n in range(20)])
    with pytest.raises(PruningError, match="the model has ids 0 to 63; it is another model's tokenizer"):
        prune(make("llama"), "word19 " * 200, tokenizer=tokenizer, seq_len=12, **QUICK)  # type: ignore[arg-type]


def test_sequences_of_a_text_share_no_token_and_follow_the_seed() -> None:
    model, tokenizer = make("llama"), byte_tokenizer()
    first, again, other = (
        data_for(model, TEXT, tokenizer, seq_len=16, seed=seed).take(np.arange(5)).inputs["input_ids"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    whole = data_for(model, TEXT, tokenizer, seq_len=16)
    ids = tokenizer(TEXT)["input_ids"]
    assert whole.take(np.arange(len(whole))).inputs["input_ids"].flatten().tolist() == ids[: len(ids) // 16 * 16]
    assert other.shape == first.shape


def test_masked_language_models_find_hidden_tokens_by_seed() -> None:
    model, tokenizer = make("bert-masked"), byte_tokenizer()
    batches = [data_for(model, TEXT, tokenizer, seq_len=20, seed=s).take(np.arange(30)) for s in (0, 0, 1)]
    hidden = batches[0].targets != -100
    assert (hidden.sum(1) == 3).all()
    assert (batches[0].inputs["input_ids"][hidden] == tokenizer.mask_token_id).all()
    assert torch.equal(batches[0].targets, batches[1].targets)
    assert not torch.equal(batches[0].targets, batches[2].targets)


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 8), (16, 15), (16, 1), (32, None), (2, 1)])
def test_perplexity_follows_the_strided_protocol(context: int, stride: int | None) -> None:
    model, tokenizer = make("llama"), byte_tokenizer()
    text = TEXT[:150]
    ids = torch.tensor(tokenizer(text)["input_ids"])
    total, count, end_before = 0.0, 0, 0
    for start in range(0, len(ids) - context + 1, stride or context):
        window = ids[start : start + context]
        with torch.no_grad():
            losses = F.cross_entropy(model(input_ids=window[None]).logits[0, :-1], window[1:], reduction="none")
        new = losses if not end_before else losses[-min(len(losses), start + context - end_before) :]
        total, count, end_before = total + float(new.sum()), count + len(new), start + context
    found = perplexity(model, text, tokenizer, context=context, stride=stride)
    assert found.tokens == count
    assert found.context == context
    assert found.value == pytest.approx(np.exp(total / count), rel=1e-5)


def test_perplexity_says_its_context_and_refuses_what_it_cannot_measure() -> None:
    model, tokenizer = make("llama"), byte_tokenizer()
    assert "(context 32, " in str(perplexity(model, TEXT, tokenizer))
    with pytest.raises(PruningError, match="less than one window of 32"):
        perplexity(model, "short", tokenizer)
    with pytest.raises(PruningError, match="stride = 40 must be 1 to 32"):
        perplexity(model, TEXT, tokenizer, stride=40)
    with pytest.raises(PruningError, match="needs a tokenizer"):
        perplexity(model, TEXT)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_memory_stays_within_a_plain_pass_without_its_gradients() -> None:
    """Of a model of 59 million weights: the model, a tenth of it, one layer's work and 64 MiB."""
    script = Path(__file__).with_name("run_to_measure_memory.py")
    options = "--blocks 6 --include model.layers.0.self_attn.k_proj --density 0.9"
    done = subprocess.run(
        [sys.executable, str(script), "plain", "prune", "layers", *options.split()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plain, pruned, by_layer = (json.loads(line) for line in done.stdout.splitlines())
    allowed = plain["peak"] - plain["model"] + plain["layer"] + 0.1 * plain["model"] + 64 * 2**20
    assert pruned["peak"] < allowed
    assert by_layer["peak"] < allowed


@pytest.mark.slow
def test_a_vision_transformer_trained_on_digits_is_pruned_better_than_by_magnitude(
    digits: tuple[torch.Tensor, torch.Tensor],
) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=8, patch_size=2,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    model, (x, y) = ViTForImageClassification(config), digits
    pixels = x.view(-1, 1, 8, 8)
    train, test = ({"pixel_values": pixels[part], "labels": y[part]} for part in (slice(1000), slice(1000, None)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(20):
        for index in torch.randperm(1000).split(50):
            optimizer.zero_grad()
            model(**{key: value[index] for key, value in train.items()}).loss.backward()
            optimizer.step()
    model.eval()
    settings = {"density": 0.15, "progress": False}
    magnitude = prune(model, train, steps=0, **settings)  # type: ignore[arg-type]
    pruned = prune(model, train, steps=25, block_size=1024, backend="tabu?threads=1", **settings)  # type: ignore[arg-type]
    dense, before, after = (evaluate(each, test) for each in (model, magnitude.model, pruned.model))
    assert dense.accuracy is not None
    assert dense.accuracy > 0.9
    assert after.loss < before.loss - 0.5 * (before.loss - dense.loss)
