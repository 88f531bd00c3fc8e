"""The layers of a model in scope of a run, chosen by name.

A layer is one weight parameter with all modules that use it, so that tied weights are pruned once and their gradients
are summed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from hybrid_icbs.errors import PruningError, UnsupportedLayerError
from hybrid_icbs.models.kinds import LayerKind, kind_of, titles
from hybrid_icbs.models.pretrained import check_weights, is_pretrained
from problems.names import suggestion

_LISTED = 12  # layers that an error lists

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight parameter in scope.

    Attributes:
        number: position among the layers in scope, 0, 1, ...
        name: name of the parameter, such as "fc1.weight".
        kind: how it is viewed as a matrix, and how its gradients are formed.
        modules: the modules that use the weight, at least one.
        weight: the parameter.
    """

    number: int
    name: str
    kind: LayerKind
    modules: tuple[nn.Module, ...]
    weight: nn.Parameter

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.weight.numel()


def find_layers(
    model: nn.Module,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    *,
    in_blocks: bool = False,
) -> list[Layer]:
    """List the layers of a model whose weights are in scope.

    Args:
        model: any torch module.
        include: patterns; a layer is in scope if one matches (None: all layers, of a transformers model those in its
            repeated blocks, without embeddings and head). A pattern is a module's name, a prefix of names up to a dot,
            a class name, or `re:` and a regular expression that is matched from the start of the module's name.
        exclude: patterns of layers that are left out; they override `include`.
        in_blocks: whether None for `include` stands for the layers in repeated blocks in all models that have any, not
            only in transformers models.

    Returns:
        The layers in the model's own order, a shared weight once.

    Raises:
        UnsupportedLayerError: a layer in scope has weights but is of another type, quantised, or not in memory.
        PruningError: a pattern matches nothing, or nothing is in scope.
    """
    check_weights(model)
    owners = {
        name: module for name, module in model.named_modules(remove_duplicate=False) if _owns_weights(module)
    }  # fmt: skip
    default = modules_in_blocks(model) if include is None and (in_blocks or is_pretrained(model)) else None
    for pattern in [*(include or ()), *(exclude or ())]:
        _check_pattern(pattern, owners)
    wanted = {
        name: module
        for name, module in owners.items()
        if (default is None or name in default)
        and (include is None or any(_matches(p, name, module) for p in include))
        and not any(_matches(p, name, module) for p in exclude or ())
    }
    _refuse_unsupported(wanted)
    users: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in wanted.items():
        users.setdefault(id(module._parameters["weight"]), []).append((name, module))
    # All modules that use a weight must be watched: tied modules come into scope together.
    for name, module in owners.items():
        weight = module._parameters.get("weight")
        if name not in wanted and id(weight) in users:
            _refuse_unsupported({name: module})
            users[id(weight)].append((name, module))
    layers: list[Layer] = []
    for uses in users.values():
        modules = tuple(dict.fromkeys(module for _, module in uses))
        weight = modules[0].weight
        assert isinstance(weight, nn.Parameter)
        name = f"{uses[0][0]}.weight" if uses[0][0] else "weight"
        kind = kind_of(modules[0])
        assert kind is not None  # others were refused above
        layers.append(Layer(len(layers), name, kind, modules, weight))
    if not layers:
        raise PruningError(
            f"no layer is in scope (include={include}, exclude={exclude}); the model has {', '.join(owners) or 'none'}"
        )
    return layers


def modules_in_blocks(model: nn.Module) -> frozenset[str] | None:
    """Names of the modules in a model's repeated blocks, the elements of its ModuleLists; None where it has none.

    Embeddings, heads and poolers are outside; embeddings inside (of relative positions) are left out too.
    """
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    inside = frozenset(
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if not isinstance(module, nn.Embedding) and any(name.startswith(f"{each}.") for each in lists)
    )
    return inside or None


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model has running batch-norm statistics."""
    return any(isinstance(module, BATCH_NORMS) and module.track_running_stats for module in model.modules())


def _owns_weights(module: nn.Module) -> bool:
    """Whether a module has matrices of its own; vectors (biases, norms) are never pruned."""
    return any(p is not None and p.dim() >= 2 for p in module._parameters.values())


def _refuse_unsupported(modules: Mapping[str, nn.Module]) -> None:
    """Refuse modules that cannot be pruned, with patterns that leave them out.

    Raises:
        UnsupportedLayerError: there are such modules; the message names them all.
    """
    faults: dict[str, dict[str, str]] = {}  # by class, by name of the module
    for name, module in modules.items():
        fault = _fault(name, module)
        if fault:
            faults.setdefault(type(module).__name__, {})[name] = fault
    if not faults:
        return
    reasons, patterns = [], []
    for kind, found in faults.items():
        first, *others = found
        reasons.append(found[first] + (f" (and {len(others)} more such layers)" if others else ""))
        by_class = others and not any(type(m).__name__ == kind for n, m in modules.items() if n not in found)
        patterns += [kind] if by_class else list(found)
    shown = ", ".join(map(repr, patterns[:4])) + (f", .. {len(patterns) - 4} more" if len(patterns) > 4 else "")
    raise UnsupportedLayerError(f"{'; '.join(reasons)}. Leave out what cannot be pruned with exclude=[{shown}]")


def _fault(name: str, module: nn.Module) -> str | None:
    """Why a layer cannot be pruned, as a clause for a message; None if it can."""
    matrices = {key: p for key, p in module._parameters.items() if p is not None and p.dim() >= 2}
    for key, weight in matrices.items():
        fault = _fault_of_weight(module, weight)
        if fault:
            return f"weight {f'{name}.{key}'!r} {fault}"
    if kind_of(module) is None or list(matrices) != ["weight"]:
        return (
            f"layer {name!r} is a {type(module).__name__} with weights {', '.join(matrices)}, and only {titles()} "
            "can be pruned"
        )
    return None


def _fault_of_weight(module: nn.Module, weight: nn.Parameter) -> str | None:
    if weight.is_meta:
        return "is not in memory (its device is meta: offloaded, or never loaded)"
    if not weight.is_floating_point():
        return f"is quantised ({type(module).__name__}, {str(weight.dtype).removeprefix('torch.')})"
    if weight.dim() == 3 and "expert" in type(module).__name__.lower():
        return (
            f"holds the experts of a mixture fused into one parameter {list(weight.shape)}, whose gradients "
            "cannot be separated by sample"
        )
    return None


def _matches(pattern: str, name: str, module: nn.Module) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern[3:], name) is not None
    return name == pattern or name.startswith(pattern + ".") or type(module).__name__ == pattern


def _check_pattern(pattern: str, owners: dict[str, nn.Module]) -> None:
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            raise PruningError(f"pattern {pattern!r} is not a regular expression: {error}") from error
    if not any(_matches(pattern, name, module) for name, module in owners.items()):
        known = [*owners, *{type(module).__name__ for module in owners.values()}]
        more = f" and {len(owners) - _LISTED} more" if len(owners) > _LISTED else ""
        layers = ", ".join(list(owners)[:_LISTED]) + more
        raise PruningError(f"pattern {pattern!r} matches no layer{suggestion(pattern, known)}. The layers are {layers}")
