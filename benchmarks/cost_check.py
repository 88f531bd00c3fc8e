"""Compare predictions with runs: small models pruned in separate processes, which report seconds and peak memory.

    python benchmarks/cost_check.py '{"model": "small", "settings": {"objective": "layer"}, "threads": 1}'

is such a process; `predict_cost.py --check` starts them. Memory is the peak of anonymous memory (not mapped from files)
above that before the model was created.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from cost_plan import Settings, bytes_of, layer_bytes, peak, work_of
from cost_shapes import read_config, shapes_of
from cost_steps import Rate, clock, inputs_like_a_models
from cost_tables import row, seconds_of, size

SMALL: dict[str, dict[str, Any]] = {  # random weights and tokens; "deep" sums gradients in a file
    "small": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32", "vocab_size": 2048,
        "hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "max_position_embeddings": 128,
    },
    "deep": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32", "vocab_size": 2048,
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 8, "max_position_embeddings": 128,
    },
}  # fmt: skip
TRAINED = "llama-shakespeare"  # used if HYBRID_ICBS_DATA has it

_FEW: dict[str, Any] = {"sequences": 64, "length": 128, "guard": 32}
RUNS: list[tuple[str, dict[str, Any]]] = [
    ("small", {**_FEW, "method": "wanda"}),
    ("small", {**_FEW, "method": "sparsegpt", "update": "backsolve"}),
    ("small", {**_FEW}),
    ("small", {**_FEW, "update": "backsolve"}),
    ("deep", {**_FEW, "objective": "loss", "sequences": 16, "steps": 6, "block_size": 4096}),
    (TRAINED, {**_FEW}),
    (TRAINED, {**_FEW, "update": "backsolve"}),
    (TRAINED, {**_FEW, "objective": "joint", "update": "backsolve"}),
    (TRAINED, {**_FEW, "objective": "loss", "sequences": 16, "steps": 20}),
]
LAYERS = (  # rows, inputs, settings: the work on one layer alone
    (256, 2048, Settings()),
    (2048, 512, Settings()),
    (1024, 1280, Settings(method="sparsegpt", update="backsolve")),
    (64, 3072, Settings(method="sparsegpt")),
    (64, 2048, Settings(update="backsolve")),
    (32, 1024, Settings(update="backsolve")),
)


def check(rates: dict[str, Rate], threads: int) -> None:
    """Print predictions and measurements."""
    row(("model", "settings", "predicted s", "measured s", "ratio", "predicted peak", "measured peak", "ratio"))
    row(["---"] * 8)
    for name, given in RUNS:
        config = SMALL.get(name) or _trained()
        if config is None:
            continue
        settings = Settings(**given)
        shapes = shapes_of(name, config, length=settings.length)
        told = sum(seconds for seconds, _ in seconds_of(work_of(shapes, settings), rates).values())
        found = _in_a_process({"model": name, "settings": given, "threads": threads})
        _line(name, str(settings), told, found, peak(bytes_of(shapes, settings)))
    print("\nMemory for the work on one layer, without its weight and Gram matrix:\n")
    row(("layer", "settings", "predicted peak", "measured peak", "ratio"))
    row(["---"] * 5)
    for rows, d, settings in LAYERS:
        told, given = layer_bytes(rows, d, settings), dataclasses.asdict(settings)
        found = _in_a_process({"layer": [rows, d], "settings": given, "threads": threads})
        row((f"{rows} x {d}", str(settings), size(told), size(found["peak"]), f"{told / found['peak']:.2f}"))


def _line(name: str, settings: str, seconds: float, found: dict[str, float], bytes_: float) -> None:
    row(
        (
            name, settings, f"{seconds:.1f}", f"{found['seconds']:.1f}", f"{seconds / found['seconds']:.2f}",
            size(bytes_), size(found["peak"]), f"{bytes_ / found['peak']:.2f}",
        )
    )  # fmt: skip


def _in_a_process(task: dict[str, Any]) -> dict[str, float]:
    """Run a task in a separate process; its seconds and peak bytes.

    Raises:
        ValueError: it failed.
    """
    done = subprocess.run([sys.executable, __file__, json.dumps(task)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"a run failed: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _trained() -> dict[str, Any] | None:
    import models

    folder = models.DATA / TRAINED
    return read_config(str(folder))[1] if folder.is_dir() else None


# The process


class Watch(threading.Thread):
    """Samples the anonymous memory every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.peak, self.done = anonymous(), 0, False

    def run(self) -> None:
        while not self.done:
            self.peak = max(self.peak, anonymous() - self.before)
            time.sleep(0.002)

    def end(self) -> int:
        self.done = True
        self.join()
        return self.peak


def anonymous() -> int:
    with Path("/proc/self/status").open() as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def run(task: dict[str, Any]) -> dict[str, float]:
    """Run a task given on the command line; its seconds and peak bytes."""
    torch.set_num_threads(task["threads"])
    settings = Settings(**task["settings"])
    if "layer" in task:
        return _one_layer(*task["layer"], settings, task["threads"])
    from transformers import AutoConfig, AutoModelForCausalLM

    from hybrid_icbs import prune

    tiny = {**SMALL["small"], "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 1}
    _prune(prune, AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny)), None, settings, task["threads"], 3)
    watch = Watch()
    if task["model"] in SMALL:
        torch.manual_seed(0)
        model, ids = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SMALL[task["model"]])).eval(), None
    else:
        import models

        model, tokenizer = models.llama()
        ids = tokenizer(models.text("shakespeare_train"), verbose=False, return_tensors="pt")["input_ids"][0]
    watch.start()
    begun = clock()
    _prune(prune, model, ids, settings, task["threads"])
    return {"seconds": clock() - begun, "peak": watch.end()}


def _prune(prune: Any, model: Any, ids: Any, settings: Settings, threads: int, few: int | None = None) -> None:
    guard, sequences = few or settings.guard, few or settings.calibration
    count = guard + sequences
    if ids is None:
        ids = torch.randint(model.config.vocab_size, (count * settings.length,))
    data = {"input_ids": ids[: count * settings.length].view(count, settings.length)}
    how: dict[str, Any] = {"objective": settings.objective, "method": settings.method, "update": settings.update}
    if not settings.by_layer:
        how |= {"steps": settings.steps, "round_size": settings.round_size, "block_size": settings.block_size}
        how |= {"backend": f"tabu?threads={threads}"}
    prune(
        model, data, density=0.5, inplace=True, progress=False, batch_size=sequences, guard_size=guard, **how
    )  # fmt: skip


def _one_layer(rows: int, d: int, settings: Settings, threads: int) -> dict[str, float]:
    from hybrid_icbs.layerwise.grams import Gram
    from hybrid_icbs.layerwise.method import LayerwiseSettings, prune_matrix
    from hybrid_icbs.methods import get_layer_method

    how = LayerwiseSettings(get_layer_method(settings.method), 0.5, update=settings.update, threads=threads)
    prune_matrix(torch.randn(2, 64), torch.eye(64), [32] * 2, how)  # compiled
    W = torch.randn(rows, d)
    gram = Gram(inputs_like_a_models(d).to(torch.float32 if d > 1024 else torch.float64), 1)
    watch = Watch()
    watch.start()
    begun = clock()
    prune_matrix(W, gram.mean(), [d // 2] * rows, how)
    return {"seconds": clock() - begun, "peak": watch.end()}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
