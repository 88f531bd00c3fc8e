"""Data: calibration samples and batches, losses, text, evaluation."""
