"""Texts as calibration data: files, tokens in sequences of one length, masked tokens, labelled texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hybrid_icbs.data.calibration import CalibrationData
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.tasks import task_of

TEXT_FILES = (".txt", ".jsonl")

SEQ_LEN = 512
"""Default number of tokens per sequence; fewer if the model's context is shorter."""

SAMPLES = 512
"""Default upper bound of the sequences drawn from a text."""

MASKED = 0.15
"""Share of tokens that are masked for a masked language model (Devlin et al. 2019, arXiv 1810.04805)."""

TEXT_KEYS = ("text", "content", "sentence")
PAIR_KEYS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question", "answer"))


def read_records(path: str | Path, what: str = "data") -> list[dict[str, Any]]:
    """The records of a text file: of .txt the whole text, of .jsonl an object (or a string) per line.

    Raises:
        PruningError: the file does not exist, is not UTF-8 or empty, or a line is not JSON; the message names both.
    """
    path = Path(path)
    if not path.is_file():
        raise PruningError(f"{what} file {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    if path.suffix not in TEXT_FILES:
        raise PruningError(f"{what} file {path} must be text ({' or '.join(TEXT_FILES)})")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise PruningError(f"{what} file {path} is not UTF-8 text (byte {error.start}); convert it first") from error
    except OSError as error:
        raise PruningError(f"{what} file {path} cannot be read: {error.strerror}") from error
    if not text.strip():
        raise PruningError(f"{what} file {path} is empty")
    if path.suffix == ".txt":
        return [{"text": text}]
    records: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise PruningError(f"{what} file {path}, line {number}, is not JSON: {error}") from error
            record = {"text": value} if isinstance(value, str) else value
            if not isinstance(record, dict):
                raise PruningError(f'{what} file {path}, line {number}: an object is needed, such as {{"text": ...}}')
            records.append(record)
    return records


def texts_of(records: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    """The texts of some records, under the first of the keys "text", "content" and "sentence" that they have.

    Raises:
        PruningError: a record has no text.
    """
    key = next((key for key in TEXT_KEYS if key in records[0]), None)
    if key is None:
        raise PruningError(f"{where} has the keys {', '.join(records[0])}; the text is looked for as {_any(TEXT_KEYS)}")
    for number, record in enumerate(records, start=1):
        if not isinstance(record.get(key), str):
            raise PruningError(f"{where}, record {number}: {key!r} is {record.get(key)!r:.40}; a text is needed")
    return [record[key] for record in records]


def token_ids(texts: Sequence[str], tokenizer: Any) -> torch.Tensor:
    """The token ids of texts joined by blank lines [tokens], without special tokens.

    Raises:
        PruningError: the tokenizer fails.
    """
    try:
        ids = tokenizer("\n\n".join(texts), add_special_tokens=False, verbose=False)["input_ids"]
    except Exception as error:  # raised by a third-party tokenizer
        raise PruningError(f"the tokenizer ({type(tokenizer).__name__}) failed: {_line(error)}") from error
    return torch.tensor(ids, dtype=torch.int64)


def context_length(model: nn.Module) -> int | None:
    """The context length of a model; None if its config does not have it."""
    config = getattr(model, "config", None)
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(found) if found else None


def sequence_length(model: nn.Module, seq_len: int | None) -> int:
    """The tokens per sequence: `seq_len`, or by default 512 or the model's context if that is shorter.

    Raises:
        PruningError: less than 2, or more than the model's context.
    """
    context = context_length(model)
    if seq_len is None:
        return min(SEQ_LEN, context or SEQ_LEN)
    if seq_len < 2 or (context is not None and seq_len > context):
        allowed = f"2 to {context}, the model's context" if context else "at least 2"
        raise PruningError(f"seq_len = {seq_len} must be {allowed}")
    return seq_len


def text_data(
    model: nn.Module,
    texts: Sequence[str],
    tokenizer: Any,
    *,
    seq_len: int | None = None,
    seed: int = 0,
    samples: int = SAMPLES,
) -> CalibrationData:
    """Sequences of one length, drawn from texts, for a causal or masked language model.

    Sequences do not overlap, so that the guard uses no token that a gradient uses. If there are more than `samples`
    sequences, a random choice is used.

    Args:
        model: the language model.
        texts: the texts, which are joined.
        tokenizer: tokenizes them.
        seq_len: tokens per sequence; None for 512, or the model's context if that is shorter.
        seed: of the choice of sequences and of the masked tokens.
        samples: upper bound of the number of sequences.

    Raises:
        PruningError: the texts are shorter than two sequences, or have token ids that the model does not have.
    """
    length = sequence_length(model, seq_len)
    ids = token_ids(texts, tokenizer)
    check_vocabulary(model, ids, tokenizer)
    masked = task_of(model) == "masked-lm"
    # Encoders expect special tokens at both ends of every sequence.
    before, after = _special_tokens(tokenizer) if masked else ([], [])
    width = length - len(before) - len(after)
    count = len(ids) // width
    if count < 2:
        raise PruningError(
            f"the text has {len(ids)} tokens, less than two sequences of {length}; give more text or a smaller seq_len"
        )
    rng = np.random.default_rng([seed, 2])
    chosen = np.sort(rng.choice(count, min(samples, count), replace=False))
    rows = ids[: count * width].view(count, width)[torch.from_numpy(chosen)]
    if masked:
        ends = [torch.tensor(part, dtype=torch.int64).expand(len(rows), -1) for part in (before, after)]
        columns = _masked(torch.cat([ends[0], rows, ends[1]], 1), tokenizer, rng)
    else:
        columns = {"input_ids": rows}
    data = CalibrationData(columns, next_token=not masked)
    data.tokenizer = tokenizer
    return data


def classification_data(
    model: nn.Module, records: Sequence[Mapping[str, Any]], tokenizer: Any, *, seq_len: int | None = None, where: str
) -> CalibrationData:
    """Labelled texts for a sequence classifier, truncated and padded to one length.

    Args:
        model: the classifier.
        records: each with a text, or a pair of texts, and a "label": the number of a class, or its name in the config.
        tokenizer: tokenizes the texts.
        seq_len: upper bound of the tokens per sequence; None for 512, or the model's context.
        where: source of the records, for messages.

    Raises:
        PruningError: a record has no label or text, or a label that the model does not have.
    """
    length = sequence_length(model, seq_len)
    pair = next((keys for keys in PAIR_KEYS if all(key in records[0] for key in keys)), None)
    texts = [[str(record[key]) for record in records] for key in pair] if pair else [texts_of(records, where)]
    labels = [_class(model, record, f"{where}, record {number}") for number, record in enumerate(records, start=1)]
    try:
        encoded = tokenizer(*texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
    except Exception as error:  # raised by a third-party tokenizer
        raise PruningError(f"the tokenizer ({type(tokenizer).__name__}) failed: {_line(error)}") from error
    check_vocabulary(model, encoded["input_ids"], tokenizer)
    data = CalibrationData({**encoded, "labels": torch.tensor(labels)})
    data.tokenizer = tokenizer
    return data


def check_vocabulary(model: nn.Module, ids: torch.Tensor, tokenizer: Any) -> None:
    """Check that a tokenizer fits a model.

    Raises:
        PruningError: the model has no embedding for a token id.
    """
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is not None and ids.numel() and int(ids.max()) >= size:
        raise PruningError(
            f"the tokenizer ({type(tokenizer).__name__}) gives the token id {int(ids.max())}, and the model has ids 0 "
            f"to {size - 1}; it is another model's tokenizer"
        )


def _class(model: nn.Module, record: Mapping[str, Any], where: str) -> int:
    label = record.get("label", record.get("labels"))
    config = getattr(model, "config", None)
    names = getattr(config, "label2id", None) or {}
    number = names.get(label, label) if isinstance(label, str) else label
    classes = getattr(config, "num_labels", None)
    if not isinstance(number, int) or not 0 <= number < (classes or number + 1):
        known = f"0 to {classes - 1}, or {', '.join(map(str, names))}" if classes else "a class's number"
        raise PruningError(f"{where}: the label is {label!r}; the model's are {known}")
    return number


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer adds before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    marked = tokenizer("a")["input_ids"]
    for start in range(len(marked) - len(plain) + 1):
        if marked[start : start + len(plain)] == plain:
            return marked[:start], marked[start + len(plain) :]
    return [], []


def _masked(ids: torch.Tensor, tokenizer: Any, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    if tokenizer.mask_token_id is None:
        raise PruningError(
            f"the tokenizer ({type(tokenizer).__name__}) has no mask token, which a masked language model needs"
        )
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    order = torch.from_numpy(rng.random(ids.shape)).masked_fill(special, 2.0)
    # The same number in each sequence, at least one: a sample without a label has no gradient.
    hidden = order.argsort(1)[:, : max(1, round(MASKED * ids.shape[1]))]
    chosen = torch.zeros_like(special).scatter_(1, hidden, True) & ~special
    return {
        "input_ids": ids.masked_fill(chosen, tokenizer.mask_token_id),
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(~chosen, -100),
    }


def _any(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys[:-1])) + f" or {keys[-1]!r}"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
