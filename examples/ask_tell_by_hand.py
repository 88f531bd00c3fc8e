"""Solve the blocks of a pruning run outside its loop: on another machine, by another program, days later.

The run writes block problems to files and waits; whoever solves them gives back states of zeros and ones.

Run it: python examples/ask_tell_by_hand.py
"""

import json
import tempfile
from pathlib import Path

import problems
import solvers
from hybrid_icbs import Config, Pruner, evaluate
from hybrid_icbs.digits import digits_classifier, load_digits

folder = Path(tempfile.mkdtemp())
model, calibration, test = digits_classifier(), load_digits("train"), load_digits("test")
config = Config.of(density=0.05, steps=12, block_size=512)


# 1. Ask: three blocks that share no weight, measured in one pass, become files.
def ask(pruner: Pruner, blocks: Path) -> None:
    problems.save_set((problem.to_dense() for problem in pruner.ask(3)), blocks)


# 2. Solve: this part needs neither torch nor the model. The .bqm files are dimod's own, so any dimod program can read
#    them; the number of ones that a block demands is in the .json beside it.
def solve(blocks: Path, answers: Path) -> None:
    answers.mkdir()
    block_set = problems.load_set(blocks)
    for name, problem in zip(block_set.names, block_set, strict=True):
        best = solvers.solve(problem, "tabu", seed=0).first
        state = [int(best.sample[i]) for i in range(problem.n)]
        (answers / f"{name}.json").write_text(json.dumps(state))


# 3. Tell: in any order. When the last answer of the round is in, it is merged, or taken back if the loss rose.
def tell(pruner: Pruner, blocks: Path, answers: Path) -> None:
    for name, problem in zip((block_set := problems.load_set(blocks)).names, block_set, strict=True):
        pruner.tell(problem, json.loads((answers / f"{name}.json").read_text()))


# The run folder's journal remembers what was asked and told, so the process may end while the blocks are away.
pruner = Pruner(model, calibration, config, out=folder / "run")
ask(pruner, folder / "round_0")
pruner.close()

solve(folder / "round_0", folder / "answers_0")

pruner = Pruner.resume(folder / "run", model, calibration)
print(f"{len(pruner.pending())} blocks wait for their answers")
tell(pruner, folder / "round_0", folder / "answers_0")

# The other rounds in the same way, without the interruption.
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
