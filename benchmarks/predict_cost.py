"""Predict time, memory and disk of pruning a language model from its config.json.

    python benchmarks/predict_cost.py --measure                    measure the steps on this machine; a few minutes
    python benchmarks/predict_cost.py [MODEL ...] [settings]       the parts of a run, for each model
    python benchmarks/predict_cost.py [MODEL ...] --overview       compare usual settings
    python benchmarks/predict_cost.py --check                      compare predictions with runs of small models

MODEL is a config.json, a folder that holds one, or llama-1b, llama-7b or llama-70b. No weight is loaded. Times use
measurements of this machine (kept in runs/benchmarks/cost_rates.json), which `--measure` makes: each step at several
widths, its growth, and the extrapolation error at the largest width. A part is marked "far" if it extrapolates to more
than fifty times the work of the largest measured size. With one thread, processor time is measured, so other work on
the machine matters little. Tables are Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args, get_type_hints

import torch
from cost_check import check
from cost_plan import Bytes, Settings, bytes_of, peak, work_of
from cost_shapes import PRESETS, Shapes, read_config, shapes_of
from cost_steps import LADDER, Rate, Setting, measure
from cost_tables import duration, row, seconds_of, short, size

REPOSITORY = Path(__file__).resolve().parent.parent
RATES = REPOSITORY / "runs" / "benchmarks" / "cost_rates.json"
FAR = 50.0
"""Factor of work beyond the largest measured size from which a prediction is marked."""

DTYPES = ("float32", "bfloat16")

OVERVIEW = (
    Settings(method="wanda"),
    Settings(method="sparsegpt"),
    Settings(),
    Settings(update="backsolve"),
    Settings(objective="joint"),
    Settings(objective="joint", update="backsolve"),
    Settings(objective="loss", checkpointing=True),
)


def main(words: Sequence[str]) -> None:
    arguments = parsed(words)
    try:
        rates = read_rates(arguments)
        if arguments.check:
            check(rates, arguments.threads)
        elif arguments.models or not arguments.measure:
            report(rates, arguments)
    except ValueError as error:
        print(f"predict_cost.py: {error}", file=sys.stderr)
        sys.exit(2)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"config.json, folder or {', '.join(PRESETS)}")
    types = get_type_hints(Settings)
    for field in dataclasses.fields(Settings):  # the settings of a run are the options
        name, choices = "--" + field.name.replace("_", "-"), get_args(types[field.name])
        if types[field.name] is bool:
            parser.add_argument(name, action="store_true")
        elif choices and all(isinstance(choice, str) for choice in choices):
            parser.add_argument(name, choices=choices, default=field.default)
        else:
            parser.add_argument(name, type=positive, default=field.default)
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the weights; by default the one in the config")
    parser.add_argument("--overview", action="store_true", help="compare usual settings")
    parser.add_argument("--measure", action="store_true", help="measure the steps on this machine")
    parser.add_argument("--check", action="store_true", help="run small models and compare with the predictions")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch and of the searches")
    parser.add_argument("--ladder", type=ladder, default=LADDER, help="widths to measure, separated by commas")
    parser.add_argument("--rates", type=Path, default=RATES, help="file of the measurements")
    arguments = parser.parse_args(words)
    if arguments.objective == "joint" and arguments.method != "icbs":
        parser.error("--objective joint is predicted for --method icbs only")
    if arguments.update == "backsolve" and not settings_of(arguments).by_layer:
        parser.error("--update backsolve is predicted by layer only: --objective layer or joint")
    return arguments


def settings_of(arguments: argparse.Namespace) -> Settings:
    return Settings(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)})


# Seconds


def read_rates(arguments: argparse.Namespace) -> dict[str, Rate]:
    """Read the measurements from their file, or make and write them.

    Raises:
        ValueError: the file is missing or damaged.
    """
    file: Path = arguments.rates
    here = {"threads": arguments.threads, "length": arguments.length, "torch": torch.__version__}
    if arguments.measure:
        print(
            f"{processor()}, torch {torch.__version__}, {arguments.threads} thread(s); {clocked(arguments.threads)}\n"
        )
        rates = measured(arguments)
        file.parent.mkdir(parents=True, exist_ok=True)
        told = {"machine": here, "rates": [dataclasses.asdict(rate) for rate in rates.values()]}
        file.write_text(json.dumps(told, indent=1), "utf-8")
        return rates
    try:
        read = json.loads(file.read_text("utf-8"))
        rates = {each["name"]: Rate(**{**each, "points": tuple(map(tuple, each["points"]))}) for each in read["rates"]}
        before = read["machine"]
    except FileNotFoundError as error:
        raise ValueError(f"no measurements of this machine at {file}; make them with --measure") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); make it again with --measure") from error
    for key, value in here.items():
        if before.get(key) != value:
            print(
                f"Caution: the measurements have {key} = {before.get(key)}, the prediction {value}; repeat them with "
                "--measure.\n"
            )
    return rates


def measured(arguments: argparse.Namespace) -> dict[str, Rate]:
    """Measure all steps and print a line of the table after each."""
    heads()
    rates = {}
    types = (arguments.dtype,) if arguments.dtype else DTYPES
    setting = Setting(arguments.threads, arguments.length, tuple(getattr(torch, name) for name in types))
    for rate in measure(arguments.ladder, setting):
        line(rate)
        rates[rate.name] = rate
    return rates


def heads() -> None:
    row(("step", "unit", "size x", "x: measured seconds", "growth", "in theory", "extrapolation"))
    row(["---"] * 7)


def line(rate: Rate) -> None:
    points = ", ".join(f"{short(x)}: {seconds:.2g}" for x, seconds in rate.points)
    held = "" if rate.held_out is None else f"{rate.held_out:.2f}"
    row((rate.name, rate.unit, rate.size, points, f"x^{rate.slope:.1f}", f"x^{rate.power:g}", held))


# Tables


def report(rates: dict[str, Rate], arguments: argparse.Namespace) -> None:
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    each = [
        shapes_of(*read_config(source), length=arguments.length, dtype=dtype)
        for source in arguments.models or PRESETS
    ]  # fmt: skip
    if arguments.overview:
        overview(each, rates, arguments)
        return
    for shapes in each:
        one(shapes, settings_of(arguments), rates)


def overview(each: Sequence[Shapes], rates: dict[str, Rate], arguments: argparse.Namespace) -> None:
    """Print time, memory and disk of the usual settings, one column per model."""
    given = {name: getattr(arguments, name) for name in ("sequences", "length", "guard", "steps", "round_size")}
    row(("settings", *(f"{shapes.name}: time, memory, disk" for shapes in each)))
    row(["---"] * (1 + len(each)))
    for usual in OVERVIEW:
        settings = dataclasses.replace(usual, block_size=arguments.block_size, **given)
        cells = []
        for shapes in each:
            parts = seconds_of(work_of(shapes, settings), rates)
            held = bytes_of(shapes, settings)
            total, reach = total_of(parts)
            disk = sum(part.bytes for part in held if part.kind == "disk")
            far = " far" if reach > FAR else ""
            cells.append(f"{duration(total)}{far}, {size(peak(held))}, {size(disk) if disk else '-'}")
        row((str(settings), *cells))


def one(shapes: Shapes, settings: Settings, rates: dict[str, Rate]) -> None:
    """Print the parts of one model's run."""
    print(
        f"\n{shapes.name}: {settings}. {shapes.parameters / 1e9:.3g} B weights, {shapes.scope / 1e9:.3g} B in scope, "
        f"{len(shapes.blocks)} blocks, {kind_of(shapes.dtype)}; {settings.calibration} sequences of {settings.length} "
        f"tokens, {settings.guard} for scores\n"
    )
    parts = seconds_of(work_of(shapes, settings), rates)
    total, _ = total_of(parts)
    row(("part", "time", "share", "extrapolation"))
    row(["---"] * 4)
    for part, (seconds, reach) in parts.items():
        row((part, duration(seconds), f"{seconds / total:.0%}", beyond(reach)))
    row(("all", duration(total), "", ""))
    print()
    held = bytes_of(shapes, settings)
    row(("held", "bytes", "where"))
    row(["---"] * 3)
    where = {"run": "memory, throughout", "moment": "memory, at a time", "disk": "disk"}
    for each in held:
        row((each.part, size(each.bytes), where[each.kind]))
    row(("peak of memory", size(peak(held)), "throughout + the largest at a time"))
    for line in remarks(shapes, settings, held, parts):
        print(f"\n{line}")


def remarks(
    shapes: Shapes, settings: Settings, held: Sequence[Bytes], parts: dict[str, tuple[float, float]]
) -> list[str]:
    """Cautions about the figures."""
    told = []
    total, _ = total_of(parts)
    far = sum(seconds for seconds, reach in parts.values() if reach > FAR)
    if far > 0.1 * total:
        told.append(
            f"{far / total:.0%} of the time is extrapolated to more than {FAR:.0f} times the measured work: an order "
            "of magnitude. A longer --ladder helps."
        )
    disk = sum(each.bytes for each in held if each.kind == "disk")
    if disk:
        told.append(
            f"Files of {size(disk)} in TMPDIR are read and written each round. Times assume that the system caches "
            "them; reading from disk takes longer."
        )
    if settings.update == "backsolve" and max(matrix.inputs for matrix in shapes.matrices) > 1024:
        told.append(
            "The iterations of conjugate gradients depend on the spectrum of the inputs, here 1/i: trained models take "
            "0.5 to 2.5 times as many."
        )
    if settings.by_layer:
        told.append("Without inplace=True (the command line sets it) the weights take memory twice.")
    return told


def total_of(parts: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """Seconds of all parts, and the extrapolation factor of the largest."""
    total, largest = sum(seconds for seconds, _ in parts.values()), max(parts.values())
    return total, largest[1]


def beyond(reach: float) -> str:
    if reach <= 1:
        return ""
    return f"{short(reach)} times" + (", far" if reach > FAR else "")


def kind_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def clocked(threads: int) -> str:
    return "seconds of the processor" if threads == 1 else "seconds of the clock"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()


def positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word} is not at least 1")
    return number


def ladder(words: str) -> tuple[int, ...]:
    widths = tuple(sorted({positive(word) for word in words.split(",")}))
    if len(widths) < 2 or widths[0] < 16:
        raise argparse.ArgumentTypeError(f"{words}: give two or more widths of at least 16, separated by commas")
    return widths


if __name__ == "__main__":
    main(sys.argv[1:])
