"""A child process that tells the most anonymous memory of one piece of work on a model of about 100 million weights.

    python run_to_measure_memory.py plain|prune|layers N [PATTERN [DENSITY]]

"prune" prunes all layers by the loss, "layers" those whose names contain the pattern by their own errors, refitted: the
first decoder block if none is given, which takes minutes; the fewer weights go, the less time it takes, at no less
memory. The number is in bytes, above what the process had before it
made the model. "plain" also tells the bytes of the model and of its largest layer's gradient.
"""

from __future__ import annotations

import json
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


def main(work: str, count: int, pattern: str = "model.layers.0", density: float = 0.5) -> None:
    from hybrid_icbs import prune

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=768, intermediate_size=2048, num_hidden_layers=13, num_attention_heads=12,
        num_key_value_heads=12, max_position_embeddings=TOKENS, use_cache=False,
    )  # fmt: skip
    warm_up(prune)
    before = anonymous()
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(8192, (count + 1, TOKENS))
    watch = Watch()
    watch.start()
    if work == "plain":
        model(input_ids=ids[:count], labels=ids[:count]).loss.backward()
    elif work == "layers":
        settings = {"objective": "layer", "update": "backsolve", "include": [pattern], "guard": "off"}
        prune(model, {"input_ids": ids[:count]}, density=density, inplace=True, progress=False, **settings)
    else:
        settings = {"steps": 2, "batch_size": count, "guard_size": 1, "backend": "tabu?threads=1"}
        prune(model, {"input_ids": ids}, density=0.5, inplace=True, progress=False, **settings)
    watch.done = True
    watch.join()
    model_bytes = sum(p.nbytes for p in model.parameters())
    layer = max(p.nbytes for p in model.model.layers.parameters())
    print(json.dumps({"peak": watch.peak - before, "model": model_bytes, "layer": layer}))


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
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:4], *map(float, sys.argv[4:]))
