"""Options that several commands share, and options made of the settings of :class:`~hybrid_icbs.Config`."""

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import typer

from hybrid_icbs.config import GOAL, GROUPS, SERVICES, SOLVING, Setting, settings

_MODEL = "Model and data"
_SETTINGS, _SPENDING = SOLVING, SERVICES

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no table.")]
Json = Annotated[bool, typer.Option("--json", help="Write the result to standard output as JSON, and nothing else.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a run, as prune --out made it.", metavar="FOLDER")]

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
        "--config", metavar="FILE", rich_help_panel=GOAL, help="Settings as .toml or .json; options take precedence."
    ),
]


Command = TypeVar("Command", bound=Callable[..., Any])


def with_settings(*groups: str, without: Iterable[str] = ()) -> Callable[[Command], Command]:
    """Give a command an option for each setting; the command gets those that were given as its argument `given`.

    Args:
        groups: groups of settings, see :data:`hybrid_icbs.config.GROUPS`; all if none is named.
        without: names of settings to leave out.
    """
    chosen = [each for each in settings() if each.group in (groups or GROUPS) and each.name not in set(without)]

    def decorate(function: Command) -> Command:
        hints = get_type_hints(function, include_extras=True)
        own = {name: each for name, each in inspect.signature(function).parameters.items() if name != "given"}
        options = {each.name: _option(each) for each in chosen if get_origin(each.kind) is not dict}
        options["sparsity"] = Annotated[
            float | None,
            typer.Option(help="Share of weights to prune, instead of --density.", show_default=False,
                         rich_help_panel=chosen[0].group),
        ]  # fmt: skip

        @functools.wraps(function)
        def wrapped(**values: Any) -> Any:
            given = {name: values.pop(name) for name in options}
            return function(**values, given={name: value for name, value in given.items() if value not in (None, [])})

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [each.replace(annotation=hints[name], kind=keyword) for name, each in own.items()]
        parameters += [
            inspect.Parameter(name, keyword, default=None, annotation=hint) for name, hint in options.items()
        ]
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
        return wrapped  # type: ignore[return-value]

    return decorate


def _option(each: Setting) -> Any:
    """The command-line option of a setting, None where it is not given."""
    several = get_origin(each.kind) is tuple
    flags = (each.flag, "--no-" + each.flag.removeprefix("--")) if each.kind is bool else (each.flag,)
    default = f" (default: {each.default_text})" if each.default_text else ""
    text = each.description[0].upper() + each.description[1:] + default + (". May be repeated." if several else ".")
    kind: Any = list[str] if several else each.kind
    return Annotated[
        kind | None,
        typer.Option(
            "/".join(flags), metavar=each.metavar or None, help=text, rich_help_panel=each.group, show_default=False
        ),
    ]
