"""Data: calibration samples, losses, forward passes and evaluation.

- `calibration`: calibration data and its batches
- `batches`, `columns`: loaders, tensors and keyword dicts as samples
- `losses`: per-sample losses
- `forward`: forward passes in evaluation mode, in parts that fit in memory
- `mismatches`: messages about data that does not fit the model or the loss
- `samples`: how a run divides its samples between gradients and guard
- `model_data`, `text`: data in the form that a model takes; texts as sequences
- `evaluation`, `perplexity`: scores on test data, and the guard
- `batch_norm`: batch-norm statistics of a pruned model
- `loading`: data that the command line names
"""
