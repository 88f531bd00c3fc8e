"""
Prune a classifier
==================

One call prunes a trained torch module. The result is compared with magnitude pruning at the same density.

Run it: python examples/prune_classifier.py
"""

import matplotlib.pyplot as plt

from hybrid_icbs import evaluate, prune
from hybrid_icbs.digits import digits_classifier, load_digits

# %%
# A trained torch module, labelled calibration samples, and test samples for the final evaluation.

model = digits_classifier()
calibration, test = load_digits("train"), load_digits("test")

# %%
# Keep 5 % of the weights. A third of the calibration samples is held back. After each block of weights the loss on them
# is measured, and a change that raises it is undone.

density = 0.05
result = prune(model, calibration, density=density, backend="sa", block_size=512, progress=False)

# %%
# Magnitude pruning at the same density: a run with no blocks keeps its initial masks.

magnitude = prune(model, calibration, density=density, steps=0, progress=False)

print(f"{'model':<12}{'accuracy':>10}{'loss':>10}{'density':>10}")
for name, pruned, kept in (
    ("dense", model, 1.0),
    ("magnitude", magnitude.model, magnitude.density),
    ("iCBS", result.model, result.density),
):
    score = evaluate(pruned, test)
    print(f"{name:<12}{score.accuracy:>10.2%}{score.loss:>10.4f}{kept:>10.4f}")

# %%
# The result is an ordinary model whose pruned weights are exact zeros. The masks say which weights were kept.

for name, kept in result.densities.items():
    print(f"{name}: {result.masks[name].sum()} weights kept, density {kept:.4f}")

# %%
# The loss on the held-back samples after each block. The first blocks are solved while the density still falls.

accepted = [row for row in result.history if row["accepted"]]
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
axes.plot([row["step"] for row in accepted], [row["loss_after"] for row in accepted], "o-", label="accepted")
refused = [row for row in result.history if not row["accepted"]]
axes.plot([row["step"] for row in refused], [row["loss_after"] for row in refused], "x", label="undone")
axes.set_yscale("log")
axes.set_xlabel("block")
axes.set_ylabel("loss on held-back samples")
axes.legend()
plt.show()
