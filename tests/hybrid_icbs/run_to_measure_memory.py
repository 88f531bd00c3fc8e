"""Tells the most anonymous memory of pieces of work on a Llama, each in a process of its own.

    python run_to_measure_memory.py plain prune layers [--blocks 13] [--samples 4] [--include PATTERN] [--density 0.5]

"plain" is one pass back and forth; "prune" prunes all layers by the loss to a half; "layers" prunes those whose names
contain the pattern by their own errors, refitted: the first decoder block if none is given, which takes minutes. The
fewer weights go, the less time that takes, at no less memory. With 13 decoder blocks the model has 105 million weights.
Numbers are in bytes, above what the process had before it made the model, whose bytes and those of its largest layer's
gradient are told too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = 128


def anonymous() -> int:
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))


class Watch(threading.Thread):
    """Looks at the memory every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = 0, False

    def run(self) -> None:
        while not self.done:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.002)


def measure(work: str, options: argparse.Namespace) -> None:
    """Do one piece of work, and print what it took."""
    from hybrid_icbs import prune

    config = LlamaConfig(
        vocab_size=8192, hidden_size=768, intermediate_size=2048, num_hidden_layers=options.blocks,
        num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=TOKENS, use_cache=False,
    )  # fmt: skip
    before, count = anonymous(), options.samples
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(8192, (count + 1, TOKENS))
    watch = Watch()
    watch.start()
    if work == "plain":
        model(input_ids=ids[:count], labels=ids[:count]).loss.backward()
    elif work == "layers":
        settings = {"objective": "layer", "update": "backsolve", "include": [options.include], "guard": "off"}
        data, density = {"input_ids": ids[:count]}, options.density
        prune(model, data, density=density, inplace=True, progress=False, **settings)
    else:
        settings = {"steps": 2, "batch_size": count, "guard_size": 1, "backend": "tabu?threads=1"}
        prune(model, {"input_ids": ids}, density=0.5, inplace=True, progress=False, **settings)
    watch.done = True
    watch.join()
    model_bytes = sum(p.nbytes for p in model.parameters())
    layer = max(p.nbytes for p in model.model.layers.parameters())
    print(json.dumps({"work": work, "peak": watch.peak - before, "model": model_bytes, "layer": layer}), flush=True)


def main() -> int:
    """Load and compile once, and do each piece of work in a fork."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="+", choices=["plain", "prune", "layers"])
    parser.add_argument("--blocks", type=int, default=13)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--include", default="model.layers.0")
    parser.add_argument("--density", type=float, default=0.5)
    options = parser.parse_args()
    from hybrid_icbs import prune

    torch.set_num_threads(1)
    torch.manual_seed(0)
    warm_up(prune)
    failed = 0
    for work in options.work:
        child = os.fork()
        if not child:
            measure(work, options)
            os._exit(0)
        failed |= os.waitpid(child, 0)[1]
    return int(failed != 0)


def warm_up(prune: object) -> None:
    """Have every library loaded and every kernel compiled before anything is measured."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(64, (4, 8))
    model(input_ids=ids, labels=ids).loss.backward()
    prune(model, {"input_ids": ids}, density=0.5, steps=1, block_size=64, progress=False, backend="tabu?threads=1")  # type: ignore[operator]


if __name__ == "__main__":
    sys.exit(main())
