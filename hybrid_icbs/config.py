"""The settings of a pruning run: each is written once, with its description, group and command-line flag.

The options of the command line, the help, the table of settings in the documentation and the files of settings are all
made from the fields of :class:`Config`.
"""

from __future__ import annotations

import json
import tomllib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.patterns import Pattern

Score: TypeAlias = Literal["magnitude", "wanda", "gradient", "random"]
Comparison: TypeAlias = Literal["global", "layer", "output", "input"]

PRESETS: dict[str, dict[str, Any]] = {
    # The defaults of Config; benchmarks/README.md says how they were chosen.
    "icbs": {},
    # The classifier runs of the paper (Rosenberg et al. 2024, arXiv 2411.17796): blocks within a layer, no guard,
    # absolute damping, gradients of 200 samples, a share of the weights fixed for the whole run.
    "icbs-paper": {
        "scope": "layer",
        "init_comparison": "layer",
        "steps": 3000,
        "batch_size": 200,
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

BY_LAYER_UNDISPATCHED = "dispatch is for blocks; runs by layer solve the rows of a layer in one call: leave it out"

GOAL, BLOCKS, OBJECTIVE, START, MODEL, GUARD, SOLVING, SERVICES = (
    "Density", "Blocks", "Objective, method, pattern", "Initial masks", "Quadratic model", "Guard", "Solver",
    "Paid services",
)  # fmt: skip
"""Groups of settings, in the order of the help and the documentation."""
GROUPS = (GOAL, OBJECTIVE, BLOCKS, START, MODEL, GUARD, SOLVING, SERVICES)


def setting(
    default: Any, description: str, group: str, *, metavar: str = "", by_layer: bool = False, **limits: Any
) -> Any:
    """A field of :class:`Config`.

    Args:
        default: its value if neither the preset nor the user sets it.
        description: one sentence for the help and the documentation, without a full stop.
        group: one of GROUPS.
        metavar: the value's name in the help; empty for the type's name.
        by_layer: whether the setting has an effect in runs by layer.
        limits: constraints of :func:`pydantic.Field`.
    """
    extra: dict[str, Any] = {"group": group, "metavar": metavar, "by_layer": by_layer}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Config(BaseModel):
    """How a model is pruned.

    A setting that is not given comes from the preset, and if the preset does not set it, from the default here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    density: float = setting(..., "share of weights to keep", GOAL, by_layer=True, gt=0, lt=1)
    preset: str = setting("icbs", "named settings to start from: icbs, or icbs-paper, the published method", GOAL,
                          metavar="NAME", by_layer=True)  # fmt: skip
    include: tuple[str, ...] | None = setting(
        None, "layers in scope: a name, a prefix, a class name, or re:REGEX; by default all linear and convolutional "
        "layers, of a transformers model those in its blocks", GOAL, metavar="PATTERN", by_layer=True,
    )  # fmt: skip
    exclude: tuple[str, ...] = setting((), "layers left out, given likewise", GOAL, metavar="PATTERN", by_layer=True)
    seed: int = setting(0, "seed of all randomness; the same seed on the same machine gives the same masks", GOAL,
                        metavar="N", by_layer=True, ge=0, lt=2**31)  # fmt: skip

    method: str = setting(
        "icbs", "pruning method: icbs, a baseline that prunes layer by layer (magnitude, wanda, sparsegpt), or a "
        "registered method", OBJECTIVE, metavar="NAME", by_layer=True,
    )  # fmt: skip
    objective: Literal["loss", "layer", "joint"] = setting(
        "loss", "what block problems minimise: loss, a quadratic model of the loss; layer, the error of each layer's "
        "output; joint, that error weighted by output gradients, so that layers are comparable",
        OBJECTIVE, by_layer=True,
    )  # fmt: skip
    update: Literal["none", "backsolve"] = setting(
        "none", "whether surviving weights are refitted: for the loss, or by layer for its output", OBJECTIVE,
        by_layer=True,
    )  # fmt: skip
    pattern: str | None = setting(
        None, "N:M pattern such as 2:4: keep N of every M consecutive weights along a layer's inputs", OBJECTIVE,
        metavar="N:M", by_layer=True,
    )  # fmt: skip
    scope: Literal["global", "layer"] = setting(
        "global",
        "whether density may move between layers (global), or each layer keeps its density (layer)",
        OBJECTIVE,
        by_layer=True,
    )

    steps: int = setting(60, "number of blocks to solve", BLOCKS, metavar="N", ge=0)
    block_size: int = setting(1024, "weights in a block, n", BLOCKS, metavar="N", ge=2)
    batch_size: int | None = setting(
        None, "samples for the gradients of a round, N; by default 1,000, of text 32 sequences, by layer 64", BLOCKS,
        metavar="N", by_layer=True, ge=1,
    )  # fmt: skip
    round_size: int = setting(
        1, "blocks of a round: measured on one batch, and merged or refused together", BLOCKS, metavar="N", ge=1
    )
    cut_steps: int | None = setting(
        None, "number of first steps that lower the density to the final one; by default a sixth of the steps if scope "
        "is global and that many blocks can halve the model, else 0", BLOCKS, metavar="N", ge=0,
    )  # fmt: skip
    cut_from: float = setting(2.0, "initial density in multiples of the final one, if the blocks can prune so much",
                              BLOCKS, ge=1)  # fmt: skip
    hold_back: float = setting(0.0, "share of a layer's weights that are held back after use in a block", BLOCKS,
                               ge=0, lt=1)  # fmt: skip
    fixed_pruned: float = setting(0.0, "share of the initially pruned weights that stay pruned", BLOCKS, ge=0, lt=1)
    fixed_kept: float = setting(0.0, "share of the initially kept weights that stay kept", BLOCKS, ge=0, lt=1)

    init: Score = setting("magnitude", "score that chooses the initial masks", START)
    init_comparison: Comparison | None = setting(
        None, "weights whose initial scores are compared: all, or those of a layer, an output or an input; by default "
        "as scope", START,
    )  # fmt: skip

    gamma: float = setting(0.75, "weight of the first-order term", MODEL, ge=0)
    rho: float = setting(0.1, "damping: weight of the squared change of the weights", MODEL, ge=0)
    relative_rho: bool = setting(
        True, "whether rho is in units of the block's mean curvature; if not, it is absolute", MODEL
    )
    adapt_rho: bool = setting(True, "double rho when the guard refuses a round, halve it when it accepts one", MODEL)

    guard: Literal["refuse", "watch", "off"] = setting(
        "refuse",
        "how rounds are judged by the loss on held-back samples: one that raises it is undone (refuse), or kept, and "
        "the best masks are restored at the end (watch); off holds no samples back",
        GUARD,
        by_layer=True,
    )
    guard_size: int | None = setting(
        None, "samples that the guard holds back; by default a third of the data, at most 5,000 or 64 sequences, by "
        "layer 64", GUARD, metavar="N", by_layer=True, ge=1,
    )  # fmt: skip
    recalibrate_bn: bool | None = setting(
        None, "recompute batch-norm statistics of the result; by default if that does not raise the guard's loss", GUARD
    )

    backend: str = setting(
        "auto", 'solver of the block problems, such as tabu or "sa?restarts=4"; auto takes the fastest local one',
        SOLVING, metavar="NAME[?KEY=VALUE&...]",
    )  # fmt: skip
    backend_options: dict[str, Any] = setting({}, "settings of the backend, by name", SOLVING)
    time_limit: float | None = setting(
        None,
        "seconds for each block; by default a fixed, reproducible amount of work",
        SOLVING,
        metavar="SECONDS",
        gt=0,
    )
    dispatch: str | None = setting(
        None, "where the blocks of a round are solved, which does not change answers: serial, threads?workers=4, "
        "processes?workers=2, ray?address=HOST:PORT; by default as the solver's capabilities say", SOLVING,
        metavar="WAY[?workers=N]",
    )  # fmt: skip

    max_calls: int | None = setting(
        None, "largest number of calls to services in the whole run, resumes included", SERVICES, metavar="N", ge=0
    )
    max_charge: float | None = setting(
        None, "largest number of seconds that services may bill the whole run, resumes included", SERVICES,
        metavar="SECONDS", ge=0, allow_inf_nan=False,
    )  # fmt: skip

    @classmethod
    def of(cls, **settings: Any) -> Config:
        """A config from keywords: `density` or `sparsity`, a `preset`, and settings that differ from it.

        A value of None means that the setting is not given.

        Raises:
            PruningError: an unknown setting, or a value that is not allowed.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            raise PruningError(_explained(error)) from error

    @classmethod
    def read(cls, file: str | Path, **overrides: Any) -> Config:
        """Read a .toml or .json file of settings; keywords that are not None take precedence.

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
            raise PruningError(f"settings {path}: the file must hold a table of names and values")
        given = {key: value for key, value in overrides.items() if value is not None}
        for one, other in (("density", "sparsity"), ("sparsity", "density")):
            if one in given:
                settings.pop(other, None)
        return cls.of(**settings | given)

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        settings = dict(given)
        preset = settings.get("preset", "icbs")
        if preset not in PRESETS:
            raise ValueError(f"preset {preset!r} does not exist; there are {', '.join(PRESETS)}")
        settings = PRESETS[preset] | settings
        by_layer = settings.get("method", "icbs") != "icbs" or settings.get("objective", "loss") != "loss"
        comparable = settings.get("objective") == "joint" and settings.get("pattern") is None
        if by_layer and not comparable and "scope" not in given:
            settings["scope"] = "layer"
        if "sparsity" in settings:
            if "density" in settings:
                raise ValueError("give density or sparsity (= 1 - density), not both")
            sparsity = settings.pop("sparsity")
            try:
                settings["density"] = 1.0 - float(sparsity)
            except (TypeError, ValueError):
                raise ValueError(f"sparsity = {sparsity!r} must be a number between 0 and 1") from None
        elif settings.get("pattern") is not None:
            settings.setdefault("density", Pattern.read(str(settings["pattern"])).density)
        elif "density" not in settings:
            raise ValueError("give density, the share of weights to keep, or sparsity (= 1 - density)")
        return settings

    @model_validator(mode="after")
    def _go_together(self) -> Config:
        by_layer = self.by_layer
        if self.pattern is not None:
            self._check_pattern(Pattern.read(self.pattern))
        if self.update != "none" and not by_layer and self.guard == "off":
            raise ValueError(
                'update = "backsolve" with objective = "loss" needs a guard, which chooses the step length: '
                'set guard = "refuse" or "watch"'
            )
        if by_layer and self.scope == "global" and self.objective != "joint":
            raise ValueError('scope = "global" needs objective = "joint" here: only then are layers comparable')
        return self

    def _check_pattern(self, pattern: Pattern) -> None:
        if abs(self.density - pattern.density) > 1e-9:
            raise ValueError(
                f"pattern {pattern} keeps {pattern.density:.4g} of the weights, and density is {self.density:g}; leave "
                "density and sparsity out, or make them agree"
            )
        if self.by_layer:
            return
        if self.cut_steps:
            raise ValueError(f"cut_steps = {self.cut_steps} cannot go with pattern {pattern}, which fixes the density")
        if self.fixed_pruned or self.fixed_kept:
            raise ValueError(
                f"fixed_pruned and fixed_kept fix single weights, and pattern {pattern} needs whole groups: set both "
                "to 0"
            )
        if self.block_size < pattern.of:
            raise ValueError(f"block_size = {self.block_size} is smaller than a group of pattern {pattern}")

    @model_validator(mode="after")
    def _dispatched(self) -> Config:
        if self.dispatch is not None:
            from solvers.dispatch import get_dispatch

            get_dispatch(self.dispatch)  # raises if it is wrong
            if self.by_layer:
                raise ValueError(BY_LAYER_UNDISPATCHED)
        return self

    @model_validator(mode="after")
    def _cut_globally(self) -> Config:
        if self.cut_steps and self.scope == "layer":
            raise ValueError('cut_steps needs scope = "global": with scope = "layer" each layer keeps its density')
        if self.cut_steps and self.cut_steps >= self.steps:
            raise ValueError(f"cut_steps = {self.cut_steps} must be less than steps = {self.steps}")
        return self

    @property
    def by_layer(self) -> bool:
        """Whether the run prunes layer by layer, instead of by blocks and rounds."""
        return self.method != "icbs" or self.objective != "loss"

    @property
    def start_comparison(self) -> Comparison:
        """Which weights' initial scores are compared."""
        return self.init_comparison or self.scope

    def refuse_without_effect(self) -> None:
        """Refuse settings of blocks and solvers in a run by layer, where they would have no effect.

        Raises:
            PruningError: there are some; the message names them.
        """
        if not self.by_layer:
            return
        plain = Config(density=self.density, preset=self.preset)
        chosen = [
            f"{each.name} = {getattr(self, each.name)!r}"
            for each in settings()
            if not each.by_layer and getattr(self, each.name) != getattr(plain, each.name)
        ]
        if chosen:
            way = f'method = "{self.method}"' if self.method != "icbs" else f'objective = "{self.objective}"'
            raise PruningError(
                f"{', '.join(chosen)}: no effect with {way}, which prunes layer by layer; leave these out, or choose "
                'method = "icbs" with objective = "loss"'
            )


@dataclass(frozen=True)
class Setting:
    """What the help and the documentation show of a field of :class:`Config`.

    Attributes:
        name: the keyword; the command-line flag is made of it.
        kind: its Python type, without None.
        default: its default.
        description: one sentence.
        group: heading in the help and the documentation.
        metavar: the value's name in the help.
        by_layer: whether it has an effect in runs by layer.
    """

    name: str
    kind: Any
    default: Any
    description: str
    group: str
    metavar: str
    by_layer: bool

    @property
    def flag(self) -> str:
        """The option of the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def values(self) -> str:
        """The values that are allowed, in a few characters."""
        if typing.get_origin(self.kind) is Literal:
            return " | ".join(typing.get_args(self.kind))
        return {bool: "true | false", int: "whole number", float: "number", str: "text"}.get(
            self.kind, "texts" if typing.get_origin(self.kind) is tuple else "names and values"
        )

    @property
    def default_text(self) -> str:
        """The default; empty where there is none, or where the description says what applies."""
        if self.default in (None, PydanticUndefined, (), {}):
            return ""
        return str(self.default).lower() if isinstance(self.default, bool) else f"{self.default}"


def settings() -> Iterator[Setting]:
    """All settings, in the order of the help."""
    fields = {name: _setting(name, field) for name, field in Config.model_fields.items()}
    for group in GROUPS:
        yield from (each for each in fields.values() if each.group == group)


def _setting(name: str, field: FieldInfo) -> Setting:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    kinds = [kind for kind in typing.get_args(field.annotation) if kind is not type(None)]
    kind = kinds[0] if type(None) in typing.get_args(field.annotation) else field.annotation
    return Setting(
        name, kind, field.default, str(field.description), str(extra["group"]), str(extra["metavar"]),
        bool(extra["by_layer"]),
    )  # fmt: skip


def settings_table() -> str:
    """The settings as Markdown: a table for each group, with keyword, flag, values, default and meaning."""
    lines: list[str] = []
    for group in GROUPS:
        lines += [f"**{group}**", "", "| keyword | values | default | meaning |", "|---|---|---|---|"]
        for each in settings():
            if each.group == group:
                values = each.values.replace("|", "\\|")
                meaning = each.description.replace("|", "\\|")
                lines.append(f"| `{each.name}` | {values} | {each.default_text} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _explained(error: ValidationError) -> str:
    from problems.names import nearest  # `problems` imports numpy, which --help does not need

    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = [*Config.model_fields, "sparsity"]
            lines.append(f"no setting {name!r}{nearest(name, known)}")
        elif not name:
            lines.append(str(problem["msg"]).removeprefix("Value error, "))
        else:
            lines.append(f"{name} = {problem['input']!r}: {problem['msg'].lower()}")
    return "; ".join(lines)
