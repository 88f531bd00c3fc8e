"""Models: the layers whose weights are pruned, masks and patterns, loading.

- `kinds`: kinds of layers (Linear, Conv2d, Conv1D and registered ones)
- `layers`: the layers in scope, by name
- `masks`: which weights are kept; files of masks
- `patterns`: N:M patterns
- `restore`: values of the weights while they are pruned, in memory or in a temporary file
- `pretrained`, `tasks`: transformers models and their tasks
- `loading`, `specs`: models and functions that the command line names
"""
