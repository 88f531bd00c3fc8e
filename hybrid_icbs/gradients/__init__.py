"""Per-sample gradients of chosen weights.

- `passes`: forward and backward passes over a batch, and the gradients that they leave
- `hooks`: hooks that record the inputs and output gradients of layers
- `entries`, `kernels`: gradients of single weights as sums of products, and their compiled loops
"""
