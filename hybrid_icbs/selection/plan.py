"""Initial masks and the weights of each round's blocks, by the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from hybrid_icbs.config import Config
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.models.patterns import Pattern
from hybrid_icbs.selection.candidates import Chosen, HoldBack, choose_candidates
from hybrid_icbs.selection.groups import choose_groups, pattern_masks
from hybrid_icbs.selection.scores import initial_masks


def first_masks(scores: Sequence[torch.Tensor], layers: Sequence[Layer], config: Config) -> Masks:
    """Initial masks at the final density, from the scores of each layer's weights, shaped like the weights."""
    if config.pattern is not None:
        return pattern_masks(scores, layers, Pattern.read(config.pattern))
    return initial_masks(scores, layers, config.density, config.start_comparison)


def choose_blocks(
    scores: Mapping[int, torch.Tensor],
    layers: Sequence[Layer],
    masks: Masks,
    held: HoldBack,
    config: Config,
    picked: Sequence[int],
    count: int,
) -> list[Chosen]:
    """The weights of a round's blocks.

    Args:
        scores: first-order effect of each weight on the loss, by layer number.
        layers: layers to choose from.
        masks: current masks.
        held: weights that are held back; the fixed weights of a layer are chosen when it is first used.
        config: the run's settings.
        picked: with scope "layer", the layer of each block.
        count: with scope "global", the number of blocks.

    Raises:
        PruningError: there are no free weights of both kinds.
    """
    for layer in layers:
        if layer.number not in held.fixed and (config.fixed_pruned or config.fixed_kept):
            kept = masks.flat(layer.name)
            held.fix(layer.number, scores[layer.number], kept, config.fixed_pruned, config.fixed_kept)

    def choose(own: Sequence[Layer], blocks: int) -> list[Chosen]:
        if config.pattern is None:
            return choose_candidates(scores, own, masks, held, config.block_size, blocks)
        return choose_groups(scores, own, masks, held, Pattern.read(config.pattern), config.block_size, blocks)

    if config.scope == "global":
        chosen = choose(layers, count)
    else:
        chosen = [c for layer in layers for c in choose([layer], picked.count(layer.number))]
    if not chosen:
        raise PruningError(
            f"no block can be formed: {masks.kept()} of {sum(map(masks.size, masks))} weights "
            "are kept, and a block needs free weights of both kinds; choose a density further from 0 and 1"
        )
    return chosen
