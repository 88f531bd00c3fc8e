"""Prune a classifier of your own: one call, and what comes back.

Run it: python examples/prune_classifier.py
"""

from hybrid_icbs import evaluate, prune
from hybrid_icbs.digits import digits_classifier, load_digits

# A trained torch module, labelled samples on which pruning may measure, and others to judge the result by.
model = digits_classifier()
calibration, test = load_digits("train"), load_digits("test")

# Keep one weight in twenty. A third of the calibration samples is held back: after each block of weights the loss is
# measured on them, and a round that did harm is taken back.
density = 0.05
result = prune(model, calibration, density=density, backend="sa", block_size=512, progress=False)

# The same density by magnitude alone, for comparison: a run of no steps ends where it starts.
magnitude = prune(model, calibration, density=density, steps=0, progress=False)

print(f"{'model':<12}{'accuracy':>10}{'loss':>10}{'density':>10}")
for name, pruned, kept in (
    ("dense", model, 1.0),
    ("magnitude", magnitude.model, magnitude.density),
    ("iCBS", result.model, result.density),
):
    score = evaluate(pruned, test)
    print(f"{name:<12}{score.accuracy:>10.2%}{score.loss:>10.4f}{kept:>10.4f}")

# Pruned weights are exact zeros in an ordinary model; the masks say which, layer by layer.
for name, kept in result.densities.items():
    print(f"{name}: {result.masks[name].sum()} weights kept, density {kept:.4f}")
