"""Pruning by block problems over the whole model: the ask/tell loop and its parts."""
