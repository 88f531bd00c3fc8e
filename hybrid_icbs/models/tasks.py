"""The task of a transformers model: what it predicts."""

from __future__ import annotations

import functools
from typing import Literal, TypeAlias

from torch import nn

from hybrid_icbs.models.pretrained import is_pretrained

Task: TypeAlias = Literal["causal-lm", "masked-lm", "tokens", "sequence", "image"]

# The lists of classes in transformers. A class can be in two of them: the first one here counts.
_TASKS: dict[Task, str] = {
    "sequence": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "image": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "tokens": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
}


def task_of(model: nn.Module) -> Task | None:
    """The task of a transformers model; None for other models and unknown tasks."""
    if not is_pretrained(model):
        return None
    return next((found for base in type(model).__mro__ if (found := task_of_class(base.__name__))), None)


def task_of_class(name: str) -> Task | None:
    """The task of a transformers class by its name, such as "LlamaForCausalLM"."""
    return next((task for task, names in _classes().items() if name in names), None)


@functools.cache
def _classes() -> dict[Task, frozenset[str]]:
    from transformers.models.auto import modeling_auto

    found: dict[Task, frozenset[str]] = {}
    for task, mapping in _TASKS.items():
        names = getattr(modeling_auto, mapping).values()
        found[task] = frozenset(name for value in names for name in (value if isinstance(value, tuple) else (value,)))
    return found
