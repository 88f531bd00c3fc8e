"""A run on disk, and what it costs.

- `journal`: every ask, answer and merge, on disk before the run continues; also the ledger of paid calls.
- `folder`: names of its files.
- `tensor_files`: tensors in the run folder, written atomically and verified when read.
- `fingerprint`: checksums of model and data, by which a resume recognises them.
- `forecast`: estimated cost of a run before anything is sent (`--dry-run`).
"""
