"""The blocks of a round: chosen weights become block problems, and answers become changes of the masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hybrid_icbs.blockwise.merge import Move, moves_of
from hybrid_icbs.blockwise.objective import block_problem
from hybrid_icbs.config import Config
from hybrid_icbs.errors import PruningError
from hybrid_icbs.gradients.passes import GradientPass
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.selection.candidates import Chosen
from problems import BlockProblem, Labels, LowRankForm

if TYPE_CHECKING:
    import dimod

States: TypeAlias = npt.NDArray[np.int8]
Answer: TypeAlias = "dimod.SampleSet | npt.ArrayLike"


@dataclass(eq=False)
class Block:
    """One block of an open round.

    Attributes:
        problem: its block problem.
        before: the current state [n], ones for the weights that are pruned now.
        fallback: the state taken if the round is refused [n]: `before`, and where the block lowers the density, with
            the kept weights of smallest magnitude pruned as well.
        answer: the solver's state [n]; None until it is given.
        energy: energy of the answer.
        info: the solver's record of the answer.
    """

    problem: BlockProblem
    before: States
    fallback: States
    answer: States | None = None
    energy: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)

    def give(self, answer: Answer) -> None:
        """Accept an answer.

        Raises:
            PruningError: the shape is wrong, or the number of pruned weights is not the block's cardinality.
        """
        state, self.info = _best_state(self.problem, answer)
        if not self.problem.is_feasible(state):
            of_each = "" if self.problem.groups is None else ", and in each group as many as are pruned now"
            raise PruningError(
                f"the answer prunes {int(state.sum())} of {self.problem.n} weights; the block needs exactly "
                f"{self.problem.constraint.total}{of_each}"
            )
        self.answer, self.energy = state, self.problem.energy(state)

    @property
    def predicted(self) -> float:
        """Change of the loss that the quadratic model predicts for the answer."""
        return self.energy - float(self.problem.energy(self.before))

    @property
    def swaps(self) -> int:
        """Number of swaps: pairs of one pruned and one kept weight that the answer exchanges."""
        assert self.answer is not None
        return (int((self.answer != self.before).sum()) - self.cut) // 2

    @property
    def cut(self) -> int:
        """Number of weights pruned in addition to those pruned now."""
        return self.problem.constraint.total - int(self.before.sum())

    def moves(self, fallback: bool = False) -> list[Move]:
        """Changes of the masks by the answer, or by the fallback."""
        labels = self.problem.labels
        assert labels is not None
        assert self.answer is not None
        after = self.fallback if fallback else self.answer
        return moves_of(labels.parameter, labels.index, self.before == 0, after == 0)


def cut_by_magnitude(before: States, values: npt.NDArray[Any], cut: int) -> States:
    """The state `before` [n] with the `cut` kept weights of smallest magnitude pruned too.

    `values` [n] are the weights' values if they are kept.
    """
    state = before.copy()
    if cut:
        kept = np.flatnonzero(before == 0)
        state[kept[np.argsort(np.abs(values[kept]), kind="stable")[:cut]]] = 1
    return state


def build_blocks(
    chosen: Sequence[Chosen],
    gradients: GradientPass,
    layers: Sequence[Layer],
    restore: Sequence[torch.Tensor],
    config: Config,
    damping: float,
    provenance: Mapping[str, Any],
) -> list[Block]:
    """Make the block problems of chosen weights. Gradients are read layer by layer, and each layer's are then freed.

    Args:
        chosen: the weights of each block.
        gradients: of the round's calibration batch; freed on the way.
        layers: all layers, by number.
        restore: restore values of each layer.
        config: the run's settings.
        damping: factor on the config's rho.
        provenance: entries that all blocks of the round share.
    """
    G = [np.empty((len(c.index), len(gradients.losses)), np.float32) for c in chosen]
    w0 = [np.empty(len(c.index), np.float32) for c in chosen]
    wanted = {}
    for layer in layers:
        index = np.concatenate([c.index[c.parameter == layer.number] for c in chosen])
        if len(index):
            wanted[layer.number] = index
    gradients.prepare(wanted)
    for layer in layers:
        where = [c.parameter == layer.number for c in chosen]
        if layer.number in wanted:
            index = wanted[layer.number]
            ends = np.cumsum([int(mine.sum()) for mine in where])[:-1]
            rows = np.split(gradients.per_sample(layer, index), ends)
            values = restore[layer.number].reshape(-1)
            picked = values[torch.from_numpy(index).to(values.device)].float().cpu().numpy()
            for b, (mine, own) in enumerate(zip(where, np.split(picked, ends), strict=True)):
                G[b][mine], w0[b][mine] = rows[b], own
        gradients.release(layer)
    blocks = []
    for b, c in enumerate(chosen):
        before = (np.arange(len(c.index)) < c.pruned).astype(np.int8)
        origin = {
            **provenance,
            "block": b,
            "layers": [layers[int(number)].name for number in np.unique(c.parameter)],
            "seed": config.seed,
            "pruned_now": int(c.pruned),  # these come first; a solver can start from the current mask
            "weights": hashlib.sha256(c.parameter.tobytes() + c.index.tobytes()).hexdigest()[:16],
            "method": f"{config.preset}, empirical Fisher of {len(gradients.losses)} samples, scope {config.scope}",
        }
        problem = block_problem(
            G[b], w0[b], before.astype(bool), gamma=config.gamma, rho=config.rho * damping,
            relative_rho=config.relative_rho, cut=c.cut, groups=c.groups, labels=Labels(c.parameter, c.index),
            provenance=origin,
        )  # fmt: skip
        blocks.append(Block(problem, before, cut_by_magnitude(before, w0[b], c.cut)))
    return blocks


def checksum(problem: BlockProblem) -> str:
    """SHA-256 of a block problem's coefficients."""
    form = problem.form
    assert isinstance(form, LowRankForm)
    digest = hashlib.sha256(np.ascontiguousarray(form.factor).view(np.uint8).data)
    digest.update(np.ascontiguousarray(problem.linear).view(np.uint8).data)
    return digest.hexdigest()


def _best_state(problem: BlockProblem, answer: Answer) -> tuple[States, Mapping[str, Any]]:
    import dimod  # here, as it takes half a second to import

    if isinstance(answer, dimod.SampleSet):
        if not len(answer) or set(answer.variables) != set(range(problem.n)):
            raise PruningError(
                f"the answer must be a SampleSet with at least one row over the variables 0..{problem.n - 1}"
            )
        binary = answer.change_vartype("BINARY", inplace=False)
        order = [binary.variables.index(v) for v in range(problem.n)]
        states = binary.record.sample[:, order].astype(np.int8)
        feasible = np.flatnonzero(problem.is_feasible(states))
        # Third-party sample sets may hold infeasible rows, and energies that include a penalty.
        rows = states[feasible] if len(feasible) else states[:1]
        return rows[int(np.argmin(problem.energy(rows)))], answer.info
    state = np.asarray(answer)
    if state.shape != (problem.n,) or not np.isin(state, (0, 1)).all():
        raise PruningError(f"the answer must be one state of zeros and ones [{problem.n}]; its shape is {state.shape}")
    return state.astype(np.int8), {}
