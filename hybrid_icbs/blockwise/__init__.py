"""Pruning by block problems over the whole model (iCBS): an ask/tell loop and its parts.

- `pruner`: the loop; `rounds`: one round from ask to merge; `state`: what stands between two rounds, and its replay.
- `objective`: the second-order model of the loss; `blocks`: gradients into block problems, answers into moves.
- `solving`: the solver of a run; `merge`: moves applied to masks and weights.
- `refit`: survivors refitted for the loss after a round; `snapshots`: masks and weights saved and restored.

A round is one batch of disjoint blocks, measured in one gradient pass. When its last answer arrives it is merged, and
the guard undoes it if the loss on held-back samples rose; the damping then doubles, and halves after an accepted round
(Levenberg-Marquardt). The gradient pass keeps the inputs and output gradients of each layer; since autograd gives the
mean gradients, candidates are chosen over all layers first, and only theirs become per-sample gradients. Blocks are in
low-rank form, a factor of N columns; no n x n matrix is formed here.
"""
