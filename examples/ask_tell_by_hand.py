"""
Solve blocks outside the loop
=============================

A run writes its block problems to files. They are solved elsewhere, for example on another machine or days later, and
the solutions are passed back to the run.

Run it: python examples/ask_tell_by_hand.py
"""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import problems
import solvers
from hybrid_icbs import Config, Pruner, evaluate
from hybrid_icbs.digits import digits_classifier, load_digits

folder = Path(tempfile.mkdtemp())
model, calibration, test = digits_classifier(), load_digits("train"), load_digits("test")
config = Config.of(density=0.05, steps=12, block_size=512)


# %%
# Ask: three blocks without a common weight are built from one pass over the data and written to files.


def ask(pruner: Pruner, blocks: Path) -> None:
    problems.save_set((problem.to_dense() for problem in pruner.ask(3)), blocks)


# %%
# Solve: this part needs neither torch nor the model. Any dimod program reads the .bqm files. The required number
# of ones is in the .json file with the same name.


def solve(blocks: Path, answers: Path) -> None:
    answers.mkdir()
    block_set = problems.load_set(blocks)
    for name, problem in zip(block_set.names, block_set, strict=True):
        best = solvers.solve(problem, "tabu", seed=0).first
        state = [int(best.sample[i]) for i in range(problem.n)]
        (answers / f"{name}.json").write_text(json.dumps(state))


# %%
# Tell: solutions may come in any order. After the last one the round is merged, or undone if the loss rose.


def tell(pruner: Pruner, blocks: Path, answers: Path) -> None:
    for name, problem in zip((block_set := problems.load_set(blocks)).names, block_set, strict=True):
        pruner.tell(problem, json.loads((answers / f"{name}.json").read_text()))


# %%
# The journal in the run's folder records every ask and tell, so the process may end before the blocks are solved.

pruner = Pruner(model, calibration, config, out=folder / "run")
ask(pruner, folder / "round_0")
pruner.close()

solve(folder / "round_0", folder / "answers_0")

pruner = Pruner.resume(folder / "run", model, calibration)
print(f"{len(pruner.pending())} blocks wait for their solutions")
tell(pruner, folder / "round_0", folder / "answers_0")

# %%
# The remaining rounds, without an interruption.

for number in range(1, 4):
    blocks, answers = folder / f"round_{number}", folder / f"answers_{number}"
    ask(pruner, blocks)
    solve(blocks, answers)
    tell(pruner, blocks, answers)
pruner.finish()
for row in pruner.history:
    verdict = "accepted" if row["accepted"] else "refused"
    print(f"step {row['step']:>2}: loss {row['loss_before']:.4f} -> {row['loss_after']:.4f}, {verdict}")
score = evaluate(pruner.model, test)
print(f"accuracy {score.accuracy:.2%} at density {pruner.masks.density():.4f}")
pruner.close()

# %%
# The loss on the held-back samples before and after each round of three blocks.

rounds = pruner.history[2::3]
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
axes.plot([row["loss_before"] for row in rounds], "o-", label="before")
axes.plot([row["loss_after"] for row in rounds], "o-", label="after")
axes.set_xticks(range(len(rounds)))
axes.set_xlabel("round")
axes.set_ylabel("loss on held-back samples")
axes.legend()
plt.show()
