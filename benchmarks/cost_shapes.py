"""Layers, operations and activations of a model, from its config alone. No weight is allocated.

The model is built and run with torch's fake tensors, which have shapes but no data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hybrid_icbs.data.losses import Loss, next_token_loss, token_loss
from hybrid_icbs.models.layers import modules_in_blocks
from hybrid_icbs.models.tasks import Task, task_of_class

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    "llama-1b": {  # the shapes of Llama 3.2 1B
        **_LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "llama-7b": {  # Llama 2 7B
        **_LLAMA, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "llama-70b": {  # Llama 2 70B
        **_LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}  # fmt: skip

_AUTO: dict[Task, str] = {"causal-lm": "AutoModelForCausalLM", "masked-lm": "AutoModelForMaskedLM"}


@dataclass(frozen=True)
class Matrix:
    """A weight in scope.

    Attributes:
        name: the module's name.
        rows: outputs.
        inputs: inputs, the width of the Gram matrix.
        source: number of the input tensor; layers of one number share a Gram matrix.
    """

    name: str
    rows: int
    inputs: int
    source: int

    @property
    def size(self) -> int:
        return self.rows * self.inputs


@dataclass(frozen=True)
class Block:
    """A decoder block: its weights in scope, and what a token takes in it.

    Attributes:
        name: the module's name.
        matrices: the weights.
        forward: operations a token of a forward pass.
        outputs: numbers per token of its output.
    """

    name: str
    matrices: tuple[Matrix, ...]
    forward: float
    outputs: int


@dataclass(frozen=True)
class Shapes:
    """A model's sizes.

    Attributes:
        name: its name.
        dtype: of its weights.
        parameters: all of them, tied ones once.
        blocks: its decoder blocks in the order in which they run.
        head: operations a token outside the blocks, forward.
        vocabulary: logits a token.
        tokens: of the traced pass.
        kept: bytes that pass keeps for its backward pass, with gradients of the weights in scope.
        widest: the most numbers a token of any input or output of a layer in scope.
    """

    name: str
    dtype: torch.dtype
    parameters: int
    blocks: tuple[Block, ...]
    head: float
    vocabulary: int
    tokens: int
    kept: int
    widest: int

    @property
    def scope(self) -> int:
        """Weights in scope."""
        return sum(matrix.size for block in self.blocks for matrix in block.matrices)

    @property
    def matrices(self) -> list[Matrix]:
        return [matrix for block in self.blocks for matrix in block.matrices]

    @property
    def forward(self) -> float:
        """Operations a token of a forward pass."""
        return self.head + sum(block.forward for block in self.blocks)


def read_config(source: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of a model: of a preset, a config.json, or a folder with one.

    Raises:
        ValueError: it does not exist or cannot be read; the message says what to do.
    """
    if source in PRESETS:
        return source, PRESETS[source]
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{source}: no such file; give a config.json, its folder, or one of {', '.join(PRESETS)}")
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise ValueError(f"{path}: no config of a transformers model (it names no model_type)")
    return path.parent.name or str(path), settings


def shapes_of(
    name: str, settings: Mapping[str, Any], *, length: int, sequences: int = 1, dtype: torch.dtype | None = None
) -> Shapes:
    """Sizes of a language model.

    Args:
        name: what to call it.
        settings: of its config.json.
        length: tokens of a sequence.
        sequences: of the pass whose activations are counted.
        dtype: of the weights; None for the config's own.

    Raises:
        ValueError: not a language model, or transformers cannot build it from these settings.
    """
    import transformers
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    task = next((found for each in settings.get("architectures") or () if (found := task_of_class(each))), None)
    if task not in _AUTO:
        found = ", ".join(settings.get("architectures") or ()) or "no architecture"
        raise ValueError(f"{name}: {found}; only causal and masked language models are supported")
    try:
        config = transformers.AutoConfig.for_model(**settings)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{name}: transformers makes no model of this config: {error}") from error
    if settings.get("quantization_config"):
        raise ValueError(f"{name}: its weights are quantised; prune the model in its full precision")
    config.use_cache = False
    dtype = dtype or getattr(config, "dtype", None) or torch.float32
    loss = next_token_loss if task == "causal-lm" else token_loss
    # Without numbers a model cannot see that no token is masked; told of no mask for its attention it makes none, as
    # in a run whose sequences are full.
    transformers.AttentionInterface.register("sdpa-without-mask", sdpa_attention_forward)
    with FakeTensorMode():
        make = getattr(transformers, _AUTO[task]).from_config
        try:
            model = make(config, dtype=dtype, attn_implementation="sdpa-without-mask").eval()
        except ValueError:  # a model with attention of its own, which keeps its mask
            model = make(config, dtype=dtype).eval()
        fused = next((key for key, p in model.named_parameters() if p.dim() == 3 and "expert" in key), None)
        if fused:
            raise ValueError(f"{name}: {fused} holds the experts of a mixture in one parameter, which is not pruned")
        return _measured(name, model, dtype, torch.zeros(sequences, length, dtype=torch.long), loss)


def _measured(name: str, model: nn.Module, dtype: torch.dtype, ids: torch.Tensor, loss: Loss) -> Shapes:
    inside = modules_in_blocks(model) or frozenset()
    linear = {key: module for key, module in model.named_modules() if key in inside and _matrix(module)}
    homes = {key: _home(model, key) for key in linear}
    matrices: dict[str, list[Matrix]] = {}
    sources: list[torch.Tensor] = []
    widths: dict[str, int] = {}

    def note(key: str, x: torch.Tensor) -> None:
        source = next((n for n, each in enumerate(sources) if each is x), len(sources))
        if source == len(sources):
            sources.append(x)
        rows, inputs = _matrix(linear[key]) or (0, 0)
        matrices.setdefault(homes[key], []).append(Matrix(key, rows, inputs, source))

    def leave(home: str, output: Any) -> None:
        widths[home] = _width(output)

    handles = [
        module.register_forward_pre_hook(lambda module, args, key=key: note(key, args[0]))
        for key, module in linear.items()
    ]
    handles += [
        model.get_submodule(home).register_forward_hook(lambda module, args, output, home=home: leave(home, output))
        for home in set(homes.values())
    ]
    with _counting() as counter, torch.no_grad():
        logits = model(input_ids=ids).logits
    for handle in handles:
        handle.remove()
    operations = {key: sum(counts.values()) for key, counts in counter.get_flop_counts().items()}
    prefix, tokens = type(model).__name__, ids.numel()
    blocks = tuple(
        Block(home, tuple(own), operations[f"{prefix}.{home}"] / tokens, widths[home]) for home, own in matrices.items()
    )
    return Shapes(
        name=name,
        dtype=dtype,
        parameters=sum(p.numel() for p in model.parameters()),
        blocks=blocks,
        head=operations["Global"] / tokens - sum(block.forward for block in blocks),
        vocabulary=logits.shape[-1],
        tokens=tokens,
        kept=_kept(model, linear, ids, loss),
        widest=max(max(matrix.rows, matrix.inputs) for own in matrices.values() for matrix in own),
    )


def _kept(model: nn.Module, linear: Mapping[str, nn.Module], ids: torch.Tensor, loss: Loss) -> int:
    """Bytes that autograd holds at the end of a forward pass, weights left out."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    held: dict[int, torch.Tensor] = {}
    for p in model.parameters():
        p.requires_grad_(False)
    for module in linear.values():
        module.weight.requires_grad_(True)  # type: ignore[union-attr]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage()._cdata] = tensor  # kept alive, so that its number stays its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(model(input_ids=ids), ids).sum()
    return sum(tensor.untyped_storage().nbytes() for number, tensor in held.items() if number not in own)


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    """Count operations, those of the CPU's attention too, which torch's counter leaves out."""

    def attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return int(sdpa_backward_flop_count(grad, query, key, value))

    aten = torch.ops.aten
    extra = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=extra) as counter:
        yield counter


def _matrix(module: nn.Module) -> tuple[int, int] | None:
    """Outputs and inputs of a layer that can be pruned."""
    if type(module) is nn.Linear:
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers."):
        return int(module.weight.shape[1]), int(module.weight.shape[0])  # type: ignore[union-attr,index]
    return None


def _home(model: nn.Module, name: str) -> str:
    """The decoder block of a layer: the element of the outermost ModuleList on the way to it."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[:depth])), nn.ModuleList):
            return ".".join(parts[: depth + 1])
    return name


def _width(output: Any) -> int:
    first = output[0] if isinstance(output, tuple | list) else output
    return math.prod(first.shape[2:])
