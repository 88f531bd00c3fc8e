"""Options that several commands share: their names, help and panels."""

from pathlib import Path
from typing import Annotated, Literal

import typer

_MODEL, _SETTINGS, _SPENDING = "Model and data", "Settings", "Services that bill"

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no table.")]
Json = Annotated[bool, typer.Option("--json", help="Write the result to standard output as JSON, and nothing else.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a run, as prune --out made it.", metavar="FOLDER")]

Density = Annotated[float | None, typer.Option(help="Share of weights to keep.", show_default=False)]
Sparsity = Annotated[
    float | None, typer.Option(help="Share of weights to prune; instead of --density.", show_default=False)
]

MaxCalls = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, rich_help_panel=_SPENDING,
        help="Calls to a service that may be made in all, before and after a resume.", show_default=False,
    ),
]  # fmt: skip
MaxCharge = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", min=0, rich_help_panel=_SPENDING,
        help="Seconds that a service may bill in all, likewise.", show_default=False,
    ),
]  # fmt: skip

Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION|FILE",
        rich_help_panel=_MODEL,
        help="Function that returns the trained model, or its weights as .safetensors or .pt.",
    ),
]
ModelFn = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION", rich_help_panel=_MODEL, help="With a file: function that makes the architecture."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        rich_help_panel=_MODEL,
        help="Function that returns calibration data: a pair of tensors, a DataLoader, or batches.",
    ),
]
LossFunction = Annotated[
    str | None,
    typer.Option(
        "--loss",
        metavar="MODULE:FUNCTION",
        rich_help_panel=_MODEL,
        help="Per-sample loss of (outputs, targets); cross entropy if not given.",
    ),
]
TestData = Annotated[
    str | None,
    typer.Option(
        "--eval",
        metavar="MODULE:FUNCTION",
        rich_help_panel=_MODEL,
        help="Function that returns test data, on which the table then shows loss and accuracy.",
    ),
]

Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_SETTINGS,
        help="Settings to start from: icbs (default), or icbs-paper, the method as published.",
    ),
]
Scope = Annotated[
    Literal["global", "layer"] | None,
    typer.Option(rich_help_panel=_SETTINGS, help="Whether budget moves between layers, or each keeps its density."),
]
BlockSize = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=_SETTINGS, help="Weights in a block (1024).")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N", rich_help_panel=_SETTINGS, help="Samples on which gradients of a block are measured (200)."
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        metavar="SCORE",
        rich_help_panel=_SETTINGS,
        help="Score that chooses the first masks: magnitude (default), wanda, gradient, random.",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        rich_help_panel=_SETTINGS,
        help="Layers in scope: a name, a prefix, a class, or re:REGEX. May be repeated.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", rich_help_panel=_SETTINGS, help="Layers left out. May be repeated."),
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=_SETTINGS, help="Where all randomness starts (0).")
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        rich_help_panel=_SETTINGS,
        help="Seconds for each block; a fixed amount of work if not given.",
        show_default=False,
    ),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", rich_help_panel=_SETTINGS, help="Settings as .toml or .json; options go over them."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=_SETTINGS,
        help="Any setting of hybrid_icbs.Config, such as rho=0.5 or guard=watch. May be repeated.",
    ),
]
