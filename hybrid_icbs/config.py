"""The settings of a pruning run: one validated type, read from keywords, TOML and JSON alike."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.patterns import Pattern
from hybrid_icbs.selection.scores import Comparison, Score

PRESETS: dict[str, dict[str, Any]] = {
    # Ours; how its defaults were chosen, and on what, stands in benchmarks/README.md.
    "icbs": {},
    # The paper's classifier runs (Rosenberg et al. 2024, arXiv 2411.17796): blocks within a layer, no guard, absolute
    # damping, part of the weights fixed for good.
    "icbs-paper": {
        "scope": "layer",
        "init_comparison": "layer",
        "steps": 3000,
        "cut_steps": 0,
        "guard": "off",
        "rho": 0.001,
        "relative_rho": False,
        "adapt_rho": False,
        "hold_back": 0.4,
        "fixed_pruned": 0.42,
        "fixed_kept": 0.35,
    },
}


BY_LAYER_UNDISPATCHED = "dispatch is for blocks: runs by layer solve the rows of a layer in one call; leave it out"

OF_BLOCKS = (
    "steps", "block_size", "cut_steps", "cut_from", "round_size", "init", "init_comparison", "gamma", "rho",
    "relative_rho", "adapt_rho", "hold_back", "fixed_pruned", "fixed_kept", "recalibrate_bn", "backend",
    "backend_options", "time_limit", "max_calls", "max_charge",
)  # fmt: skip
"""Settings that mean nothing to a run by layer."""


class Config(BaseModel):
    """How a model is pruned.

    Settings that are not given come from the preset, then from the defaults here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    density: float = Field(gt=0, lt=1, description="share of weights kept")
    method: Literal["icbs", "magnitude", "wanda", "sparsegpt"] = Field(
        "icbs", description="how weights are chosen: icbs, or one of the field's baselines, layer by layer"
    )
    objective: Literal["loss", "layer", "joint"] = Field(
        "loss",
        description="what blocks minimise: a model of the loss; the error of each layer's output, row by row; or that "
        "error weighted by the rows' output gradients, which makes layers comparable",
    )
    update: Literal["none", "backsolve"] = Field(
        "none",
        description="whether surviving weights are refitted: by layer for its outputs, by blocks for the loss",
    )
    pattern: str | None = Field(
        None, description="N:M, such as 2:4: of each M weights along a layer's inputs N are kept"
    )
    preset: str = Field("icbs", description="named settings that the others start from")
    scope: Literal["global", "layer"] = Field(
        "global", description="whether a block's candidates come from all layers, moving budget between them"
    )
    steps: int = Field(60, ge=0, description="blocks to solve")
    block_size: int = Field(1024, ge=2, description="weights in a block, n")
    cut_steps: int | None = Field(
        None,
        ge=0,
        description="of the steps, those that lower the density: the run starts denser, and each of these blocks cuts "
        "its part; by default a sixth where scope is global and so many blocks can halve the model, else none",
    )
    cut_from: float = Field(
        2.0,
        ge=1,
        description="density at which cutting starts, in multiples of the final one, if blocks can cut so much",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="samples for the gradients of a round, N; by default 1,000, of text 32 sequences, by layer 64",
    )
    round_size: int = Field(
        1, ge=1, description="blocks asked together, from one batch, and merged or refused together"
    )
    init: Score = Field("magnitude", description="score that chooses the masks with which the run starts")
    init_comparison: Comparison | None = Field(
        None, description="among which weights initial scores are compared; by default as the scope"
    )
    gamma: float = Field(0.75, ge=0, description="weight of the first-order term")
    rho: float = Field(0.1, ge=0, description="damping of the change of the weights")
    relative_rho: bool = Field(True, description="rho in units of the block's mean curvature, not absolute")
    adapt_rho: bool = Field(
        True, description="double rho when the guard refuses a round and halve it when it accepts one"
    )
    hold_back: float = Field(0.0, ge=0, lt=1, description="share of a layer's weights that wait after use")
    fixed_pruned: float = Field(0.0, ge=0, lt=1, description="share of the first pruned weights that stay pruned")
    fixed_kept: float = Field(0.0, ge=0, lt=1, description="share of the first kept weights that stay kept")
    guard: Literal["refuse", "watch", "off"] = Field(
        "refuse",
        description="measure the loss on held-back data after each round and take a harmful round back (refuse), "
        "or only remember the best state (watch)",
    )
    guard_size: int | None = Field(
        None,
        ge=1,
        description="samples that the guard holds back; by default a third of the data, at most 5,000 or 64 sequences, "
        "by layer 64",
    )
    recalibrate_bn: bool | None = Field(
        None,
        description="recompute batch-norm statistics of the result; by default where there are any and the loss on "
        "the guard's samples does not rise by it",
    )
    backend: str = Field("auto", description="solver of the block problems: NAME[?key=value&key=value]")
    backend_options: dict[str, Any] = Field(default_factory=dict, description="settings of the backend")
    time_limit: float | None = Field(
        None,
        gt=0,
        description="seconds for each block; by default a solver does a fixed amount of work, which can be repeated",
    )
    dispatch: str | None = Field(
        None,
        description="where the blocks of a round are solved: serial, threads?workers=4, processes?workers=2, "
        "ray?address=auto; by default as the solver's capabilities say. It changes no answer",
    )
    max_calls: int | None = Field(
        None, ge=0, description="calls to services that the run may make, those before a resume included"
    )
    max_charge: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="seconds that services may bill the run, likewise"
    )
    include: tuple[str, ...] | None = Field(None, description="patterns of layers in scope")
    exclude: tuple[str, ...] = Field((), description="patterns of layers left out")
    seed: int = Field(0, ge=0, lt=2**31, description="where all randomness of the run starts")

    @classmethod
    def of(cls, **settings: Any) -> Config:
        """Make a config of keywords: `density` or `sparsity`, a `preset`, and whatever differs from it.

        None stands for "not given".

        Raises:
            PruningError: an unknown setting (the nearest is named) or a value that it cannot have.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            raise PruningError(_explained(error)) from error

    @classmethod
    def read(cls, file: str | Path, **overrides: Any) -> Config:
        """Read a .toml or .json file of settings; keywords that are not None go over it.

        Raises:
            PruningError: the file cannot be read, or a setting is wrong.
        """
        path = Path(file)
        try:
            text = path.read_text("utf-8")
            settings = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
            raise PruningError(f"settings {path}: {error}") from error
        if not isinstance(settings, dict):
            raise PruningError(f"settings {path}: a table of names and values is needed")
        return cls.of(**{**settings, **{k: v for k, v in overrides.items() if v is not None}})

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        settings = dict(given)
        preset = settings.get("preset", "icbs")
        by_layer = settings.get("method", "icbs") != "icbs" or settings.get("objective", "loss") != "loss"
        if settings.get("pattern") is not None:
            settings.setdefault("density", Pattern.read(str(settings["pattern"])).density)
        if by_layer and (settings.get("objective") != "joint" or settings.get("pattern") is not None):
            settings.setdefault("scope", "layer")  # costs of different layers compare by the joint objective only
        if preset not in PRESETS:
            raise ValueError(f"preset {preset!r} does not exist; there are {', '.join(PRESETS)}")
        if "sparsity" in settings:
            if "density" in settings:
                raise ValueError("give density or sparsity (= 1 - density), not both")
            sparsity = settings.pop("sparsity")
            try:
                settings["density"] = 1.0 - float(sparsity)
            except (TypeError, ValueError):
                raise ValueError(f"sparsity = {sparsity!r} must be a number between 0 and 1") from None
        elif "density" not in settings:
            raise ValueError("give density, the share of weights to keep, or sparsity (= 1 - density)")
        return {**PRESETS[preset], **settings}

    @model_validator(mode="after")
    def _go_together(self) -> Config:
        by_layer = self.by_layer
        if self.pattern is not None:
            self._check_pattern(Pattern.read(self.pattern))
        if self.update != "none" and not by_layer and self.guard == "off":
            raise ValueError(
                'update = "backsolve" with objective = "loss" needs a guard, which measures how far a step may go: '
                'guard = "refuse" or "watch"'
            )
        if by_layer and self.scope == "global" and self.objective != "joint":
            raise ValueError(
                'scope = "global" needs objective = "joint": by it alone costs of different layers compare'
            )
        return self

    def _check_pattern(self, pattern: Pattern) -> None:
        if abs(self.density - pattern.density) > 1e-9:
            raise ValueError(f"pattern {pattern} keeps {pattern.density:.4g} of the weights, not {self.density:g}")
        if self.by_layer:
            return
        if self.cut_steps:
            raise ValueError(f"cut_steps = {self.cut_steps} cannot go with pattern {pattern}, which fixes the density")
        if self.fixed_pruned or self.fixed_kept:
            raise ValueError(
                f"fixed_pruned and fixed_kept choose single weights, and pattern {pattern} whole groups: set both to 0"
            )
        if self.block_size < pattern.of:
            raise ValueError(f"block_size = {self.block_size} holds no group of pattern {pattern}")

    @model_validator(mode="after")
    def _dispatched(self) -> Config:
        if self.dispatch is not None:
            from solvers.dispatch import get_dispatch

            get_dispatch(self.dispatch)  # says what is wrong with it
            if self.by_layer:
                raise ValueError(BY_LAYER_UNDISPATCHED)
        return self

    @model_validator(mode="after")
    def _cut_globally(self) -> Config:
        if self.cut_steps and self.scope == "layer":
            raise ValueError('cut_steps needs scope = "global": by layer the density of each is kept as it starts')
        if self.cut_steps and self.cut_steps >= self.steps:
            raise ValueError(f"cut_steps = {self.cut_steps} must be less than steps = {self.steps}")
        return self

    @property
    def by_layer(self) -> bool:
        """Whether the run goes through the layers once, instead of through blocks and rounds."""
        return self.method != "icbs" or self.objective != "loss"

    def refuse_what_does_not_count(self) -> None:
        """Refuse settings of blocks that were chosen for a run by layer, where they would change nothing.

        Raises:
            PruningError: there are some; it names them.
        """
        if not self.by_layer:
            return
        plain = Config(density=self.density, preset=self.preset)
        chosen = [
            f"{name} = {getattr(self, name)!r}" for name in OF_BLOCKS if getattr(self, name) != getattr(plain, name)
        ]
        if chosen:
            way = f'method = "{self.method}"' if self.method != "icbs" else f'objective = "{self.objective}"'
            raise PruningError(
                f"{', '.join(chosen)}: of no effect with {way}, which goes through the layers once, without blocks and "
                'their solvers; leave out what it does not use, or choose method = "icbs" with objective = "loss"'
            )

    @property
    def start_comparison(self) -> Comparison:
        """Among which weights initial scores are compared."""
        return self.init_comparison or self.scope


def _explained(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, list(Config.model_fields), n=1)
            meant = f"; did you mean {close[0]!r}?" if close else f". Known: {', '.join(Config.model_fields)}"
            lines.append(f"no setting {name!r}{meant}")
        elif not name:
            lines.append(str(problem["msg"]).removeprefix("Value error, "))
        else:
            lines.append(f"{name} = {problem['input']!r}: {problem['msg'].lower()}")
    return "; ".join(lines)
