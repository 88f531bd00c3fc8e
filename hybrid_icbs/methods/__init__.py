"""Pruning methods: one module a method, behind one registry.

- `base`: the interfaces of methods, by layer (:class:`LayerMethod`) and of the whole model (:class:`ModelMethod`)
- `registry`: methods by name; those of third parties
- `icbs`: masks by combinatorial optimisation, layer by layer (by blocks: `hybrid_icbs.blockwise`)
- `magnitude`, `wanda`, `sparsegpt`: baselines of the field
- `run`: a run of a method: calibration data, journal, scores, result
"""

from hybrid_icbs.methods.base import Choice, LayerMethod, LayerProblem, LayerwiseSettings, ModelMethod, ModelProblem
from hybrid_icbs.methods.registry import get_layer_method, get_method, names, register, unregister

__all__ = [
    "Choice",
    "LayerMethod",
    "LayerProblem",
    "LayerwiseSettings",
    "ModelMethod",
    "ModelProblem",
    "get_layer_method",
    "get_method",
    "names",
    "register",
    "unregister",
]
