"""The plots of a run: loss along the steps, density per layer, predicted against measured change, seconds by part."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_icbs.report.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2f7fd0", "#d9622b", "#8a8f98"  # distinct for colour-blind readers, on light and dark paper

_INK = "#010203"  # placeholder that SVG output replaces by the page's text colour
_BARS = 40  # layers; more bars would leave no room for their names
_POINTS = 1500  # in an SVG; more are drawn as one bitmap


@dataclass(frozen=True)
class Plot:
    """One plot of a run.

    Attributes:
        name: prefix of all ids in its SVG, so that several plots can share a page.
        title: its heading.
        caption: what it shows, also for screen readers.
        figure: the drawing.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """An SVG element for an HTML page: it scales, and takes the page's text colour and font."""
        file = io.StringIO()
        with _style():
            self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = file.getvalue()[file.getvalue().index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
        text = re.sub(r'(id="|"#|url\(#)', rf"\g<1>{self.name}-", text)  # several plots share a page
        text = re.sub(r"font: ([^;]*?)'[^;]*", r"font: \1inherit", text)
        return text.replace(_INK, "currentColor").replace("<svg ", '<svg aria-hidden="true" ', 1)


def draw(record: RunRecord) -> list[Plot]:
    """The plots for which a run has figures; without a guard there are no losses to plot."""
    drawers: tuple[Callable[[RunRecord], Plot | None], ...] = (_loss, _densities, _prediction, _seconds)
    with _style():
        return [plot for plot in (drawer(record) for drawer in drawers) if plot is not None]


# The four plots


def _loss(record: RunRecord) -> Plot | None:
    rounds = [r for r in record.rounds if r.before is not None and r.after is not None]
    if not rounds:
        return None
    figure, axes = _axes(4.2)
    steps = [0, *(r.step for r in rounds)]
    kept = [rounds[0].before, *(r.after if r.accepted else r.before for r in rounds)]
    losses = np.array(kept, float)
    end = 1.02 * steps[-1]  # leaves room to see the last step
    axes.step([*steps, end], [*losses, losses[-1]], where="post", color=BLUE, linewidth=2)
    refused = [(r.step, float(r.after or 0)) for r in rounds if not r.accepted]
    top = _top(losses, [loss for _, loss in refused])
    within = [(s, loss) for s, loss in refused if loss <= top]
    beyond = [s for s, loss in refused if not loss <= top]
    if within:
        axes.plot(*zip(*within, strict=True), "x", color=ORANGE, markersize=6, label="refused round", zorder=3)
    if beyond:
        label = "refused, above this range" if within else "refused round, above this range"
        axes.plot(beyond, [top] * len(beyond), "^", color=ORANGE, markersize=5, label=label, zorder=3, clip_on=False)
    low = float(losses.min())
    dense = record.scores.get("dense", {}).get("loss")
    if dense is not None and low / 4 < dense < 2 * top:  # a distant line would compress the curve
        low, top = min(low, dense), max(top, dense)
        axes.axhline(dense, color=GREY, linewidth=1, linestyle=(0, (5, 3)))
        axes.annotate(f"dense {dense:.3g}", (1, dense), xycoords=("axes fraction", "data"), xytext=(0, 4),
                      textcoords="offset points", ha="right", va="bottom", color=_INK, fontsize=10)  # fmt: skip
    if low > 0 and losses.max() > 20 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.4, top * 1.15)
        _plain_log_ticks(axes)
    else:
        span = max(top - low, 0.01 * abs(top), 1e-9)
        axes.set_ylim(low - 0.06 * span, top + 0.03 * span)
    axes.set_xlim(0, end)
    axes.set_xlabel("step (blocks solved)")
    axes.set_ylabel("loss on held-back samples")
    if refused:
        axes.legend(loc="upper right")
    share = f"{len(refused)} of {len(rounds)} rounds were refused"
    caption = (
        f"The loss went from {losses[0]:.4g} to {losses.min():.4g} at its lowest"
        + (f" (dense model: {dense:.4g})" if dense is not None else "")
        + (f"; {share} and undone." if refused else ".")
    )
    return Plot("loss", "Loss along the steps", caption, figure)


def _densities(record: RunRecord) -> Plot | None:
    layers = record.layers
    if not layers:
        return None
    now = [layer.density for layer in layers]
    start = [layer.start_density for layer in layers if layer.start_density is not None]
    both = len(start) == len(layers)
    place = np.arange(len(layers))
    if len(layers) <= _BARS:
        thickness = 0.38 if both else 0.7
        figure, axes = _axes(1.3 + len(layers) * (0.5 if both else 0.3))
        if both:
            axes.barh(place - 0.2, start, thickness, color=GREY, label="start")
        bars = axes.barh(place + (0.2 if both else 0), now, thickness, color=BLUE, label="result")
        axes.bar_label(bars, [f"{value:.3g}" for value in now], padding=4, fontsize=10, color=_INK)
        axes.set_yticks(place, _shortened([layer.name for layer in layers]))
        axes.set_ylim(-0.6, len(layers) - 0.4)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(*now, *start, 1e-9))
        axes.set_xlabel("density (share of weights kept)")
        axes.grid(axis="y", visible=False)
    else:
        figure, axes = _axes(4.0)
        if both:
            axes.plot(place + 1, start, "o-", color=GREY, markersize=3, linewidth=1, label="start")
        axes.plot(place + 1, now, "o-", color=BLUE, markersize=3, linewidth=1, label="result")
        axes.set_xlabel("layer, in the model's order")
        axes.set_ylabel("density (share of weights kept)")
        axes.set_ylim(0, 1.1 * max(*now, *start, 1e-9))
    if both:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    lowest, highest = min(layers, key=lambda l: l.density), max(layers, key=lambda l: l.density)
    caption = (
        f"From {lowest.density:.3g} in {lowest.name} to {highest.density:.3g} in {highest.name}; "
        f"{record.density:.4g} over all layers."
    )
    return Plot("density", "Density per layer", caption, figure)


def _prediction(record: RunRecord) -> Plot | None:
    rounds = [r for r in record.rounds if r.before is not None and r.after is not None and np.isfinite(r.after)]
    if not rounds:
        return None
    predicted = np.array([r.predicted for r in rounds])
    measured = np.array([float(r.after or 0) - float(r.before or 0) for r in rounds])
    accepted = np.array([r.accepted for r in rounds])
    figure, axes = _axes(4.8)
    sizes = np.abs(np.concatenate([predicted, measured]))
    sizes = sizes[sizes > 0]
    if len(sizes):
        # Early rounds change the loss a thousand times as much as late ones: both signs on a logarithmic scale.
        threshold = float(10 ** np.floor(np.log10(np.quantile(sizes, 0.1))))
        limit = float(sizes.max()) * 1.6
        axes.set_xscale("symlog", linthresh=threshold)
        axes.set_yscale("symlog", linthresh=threshold)
        axes.set_xlim(-limit, limit if predicted.max() > 0 else predicted.max() / 3)
        axes.set_ylim(-limit, limit)
        decades = np.arange(np.log10(threshold), np.floor(np.log10(limit)) + 1)
        powers = 10.0 ** decades[:: max(1, len(decades) // 3)]
        ticks = [*(-powers[::-1]), 0.0, *powers]
        axes.set_xticks([t for t in ticks if t <= axes.get_xlim()[1]], minor=False)
        axes.set_yticks(ticks, minor=False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(_no_ticks())
            axis.set_major_formatter(_signed)
        axes.plot([-limit, limit], [-limit, limit], color=GREY, linewidth=1, linestyle=(0, (5, 3)))
        axes.axhline(0, color=GREY, linewidth=0.8)
    many = len(rounds) > _POINTS
    for which, marker, colour, label in ((accepted, "o", BLUE, "accepted"), (~accepted, "x", ORANGE, "refused")):
        if which.any():
            axes.plot(predicted[which], measured[which], marker, color=colour, markersize=5, alpha=0.8, label=label,
                      rasterized=many, linestyle="none", markeredgewidth=1.2 if marker == "x" else 0)  # fmt: skip
    axes.set_xlabel("predicted change of the loss, a round")
    axes.set_ylabel("measured change")
    axes.legend(loc="upper left")
    right = int((np.sign(predicted) == np.sign(measured)).sum())
    caption = (
        "On the dashed line the quadratic model is right; above the solid one the loss rose. "
        f"It had the right sign in {right} of {len(rounds)} rounds."
    )
    return Plot("prediction", "Predicted against measured change", caption, figure)


def _seconds(record: RunRecord) -> Plot | None:
    seconds = record.seconds
    total = sum(seconds.values())
    if not total:
        return None
    figure, axes = _axes(1.2 + 0.36 * len(seconds))
    bars = axes.barh(list(seconds), list(seconds.values()), 0.62, color=BLUE)
    labels = [f"{value:.3g} s  ({value / total:.0%})" for value in seconds.values()]
    axes.bar_label(bars, labels, padding=4, fontsize=10, color=_INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(seconds.values()))
    axes.set_xlabel("seconds")
    axes.grid(axis="y", visible=False)
    largest = max(seconds, key=lambda part: seconds[part])
    caption = f"{total:.3g} s in all, the largest part for {largest} ({seconds[largest] / total:.0%})."
    return Plot("seconds", "Seconds by part", caption, figure)


# Style


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib as mpl

    settings: dict[str, Any] = {
        "font.size": 11, "svg.fonttype": "none", "svg.hashsalt": "hybrid-icbs",
        "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
        "xtick.labelcolor": _INK, "ytick.labelcolor": _INK, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.color": GREY, "grid.alpha": 0.25, "grid.linewidth": 0.8, "legend.frameon": False,
        "axes.axisbelow": True,
    }  # fmt: skip
    with mpl.rc_context(settings):
        yield


def _axes(height: float) -> tuple[Figure, Axes]:
    # Not a figure of pyplot: it needs no display and shares no state with the caller's plots.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, height), layout="constrained")
    return figure, figure.subplots()


def _top(losses: np.ndarray[Any, Any], refused: list[float]) -> float:
    """The upper end of the axis of losses: above accepted losses, and above refused ones that are not far beyond."""
    highest, spread = float(losses.max()), float(losses.max() - losses.min())
    near = [loss for loss in refused if loss <= highest + 0.5 * max(spread, 0.1 * highest)]
    return max([highest, *near])


def _plain_log_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _signed(value: float, _: Any = None) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if 0 < abs(value) < 1e-3 else f"{value:g}"


def _shortened(names: list[str], most: int = 30) -> list[str]:
    """Names without ".weight" if all end in it; long ones are cut at the left, since layers differ at the right."""
    if all(name.endswith(".weight") for name in names):
        names = [name.removesuffix(".weight") for name in names]
    return [name if len(name) <= most else f"…{name[1 - most :]}" for name in names]
