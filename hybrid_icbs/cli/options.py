"""Options that several commands share: their names, help and panels."""

from pathlib import Path
from typing import Annotated, Literal

import typer

_MODEL, _SETTINGS, _SPENDING = "Model and data", "Settings", "Services that bill"
_BY_LAYER = "Objective, method, pattern"

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
        metavar="MODULE:FUNCTION|FILE|FOLDER|NAME",
        rich_help_panel=_MODEL,
        help="Function that returns the trained model, its weights as .safetensors or .pt, or a transformers model by "
        "its folder or its name on the Hugging Face hub.",
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
        metavar="MODULE:FUNCTION|FILE|NAME",
        rich_help_panel=_MODEL,
        help="Function that returns calibration data: a pair of tensors, a DataLoader, or batches. For transformers "
        "models also text as .txt or .jsonl, or NAME[?config=...&split=...] of the package datasets.",
    ),
]
LossFunction = Annotated[
    str | None,
    typer.Option(
        "--loss",
        metavar="MODULE:FUNCTION",
        rich_help_panel=_MODEL,
        help="Per-sample loss of (outputs, targets); if not given cross entropy, of language models by token.",
    ),
]
TestData = Annotated[
    list[str] | None,
    typer.Option(
        "--eval",
        metavar="MODULE:FUNCTION|FILE|NAME",
        rich_help_panel=_MODEL,
        help="Test data, on which the table then shows loss and accuracy, of a text a causal language model's "
        "perplexity. May be repeated.",
    ),
]
SeqLen = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS", min=2, rich_help_panel=_MODEL,
        help="Tokens of a sequence, for text (512, or the model's context).", show_default=False,
    ),
]  # fmt: skip
Samples = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=2, rich_help_panel=_MODEL,
        help="Sequences drawn from calibration text at most (512).", show_default=False,
    ),
]  # fmt: skip

Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_BY_LAYER,
        show_default=False,
        help="How weights are chosen: icbs, the baselines magnitude, wanda, sparsegpt, or a registered method.",
    ),
]
Objective = Annotated[
    Literal["loss", "layer", "joint"] | None,
    typer.Option(
        rich_help_panel=_BY_LAYER,
        help="What is minimised: a model of the loss (default), each layer's output error, or that by gradients.",
        show_default=False,
    ),
]
Update = Annotated[
    Literal["none", "backsolve"] | None,
    typer.Option(rich_help_panel=_BY_LAYER, help="Whether surviving weights are refitted.", show_default=False),
]
NofM = Annotated[
    str | None,
    typer.Option(
        "--pattern", metavar="N:M", rich_help_panel=_BY_LAYER, help="Keep N of each M weights, such as 2:4.",
        show_default=False,
    ),
]  # fmt: skip
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
        metavar="N",
        rich_help_panel=_SETTINGS,
        help="Samples on which gradients of a block are measured (1,000; of text 32 sequences, by layer 64).",
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
DispatchTo = Annotated[
    str | None,
    typer.Option(
        "--dispatch",
        metavar="WAY[?workers=N]",
        rich_help_panel=_SETTINGS,
        help="Where the blocks of a round are solved: serial, threads, processes, ray[?address=HOST:PORT].",
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
