"""Pruning layer by layer: each layer for its own output on calibration data.

- `passes`: the pass over the decoder blocks of a model
- `method`: settings, the problem of one layer, and the interface of methods
- `grams`: Gram matrices of layers' inputs; mean squared gradients of their outputs
- `cached_prefix`: cached outputs of finished blocks
- `allocation`: how many weights each row loses
- `refit`: the kept weights that minimise a layer's error
- `windows`: masks of wide layers, in windows of columns
- `rows`: the rows of a layer as block problems
- `journal`, `history`: finished blocks on disk; their rows in reports
"""
