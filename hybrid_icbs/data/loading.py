"""Calibration data that the command line names: a function, a text file, or a public data set."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hybrid_icbs.data.calibration import CalibrationData
from hybrid_icbs.data.evaluation import Tokens
from hybrid_icbs.data.model_data import data_for
from hybrid_icbs.data.text import (
    SAMPLES,
    TEXT_FILES,
    check_vocabulary,
    classification_data,
    read_records,
    sequence_length,
    text_data,
    texts_of,
    token_ids,
)
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.specs import call, explained, is_spec
from hybrid_icbs.models.tasks import task_of

MOST_RECORDS = 20_000
"""Upper bound of the records read from a public data set; some are larger than any disk."""


@dataclass(frozen=True)
class TextModel:
    """A transformers model that reads texts, and how they are cut into sequences.

    Attributes:
        model: the model.
        tokenizer: its tokenizer, if it has one.
        seq_len: tokens per sequence; None for 512, or the model's context if that is shorter.
        samples: upper bound of the sequences drawn from a text.
        seed: of the draw.
    """

    model: nn.Module
    tokenizer: Any = None
    seq_len: int | None = None
    samples: int = SAMPLES
    seed: int = 0


def load_data(spec: str, what: str = "data", reader: TextModel | None = None) -> CalibrationData:
    """The calibration data that a specification names.

    Args:
        spec: `package.module:function`, a function without arguments that returns what
            `CalibrationData` takes: a pair of tensors (inputs, labels), a DataLoader,
            or an iterable of such batches or keyword dicts; for transformers models also a text file (.txt, .jsonl),
            or a data set of the package datasets as NAME[?config=...&split=...].
        what: name of the option, for messages.
        reader: the transformers model that reads texts.

    Raises:
        PruningError: the name does not exist, the function fails, or its result is not calibration data.

    Example:
        >>> len(load_data("hybrid_icbs.digits:load_digits"))
        1347
    """
    if not is_spec(spec) and ".py" not in spec:
        return _samples(spec, what, reader)
    given = call(spec, what)
    try:
        return CalibrationData(given) if reader is None else data_for(
            reader.model, given, reader.tokenizer, seq_len=reader.seq_len, seed=reader.seed
        )  # fmt: skip
    except PruningError as error:
        raise PruningError(f"{what} {spec!r}: {error}") from error
    except Exception as error:  # raised by a user's iterable
        raise PruningError(f"{what} {spec!r} raised {explained(error)}") from error


def load_test(spec: str, reader: TextModel | None = None) -> CalibrationData | Tokens:
    """Test data, as :func:`load_data`; for a causal language model the token ids of a whole text."""
    if reader is None or is_spec(spec) or ".py" in spec or task_of(reader.model) != "causal-lm":
        return load_data(spec, "eval", reader)
    ids = token_ids(texts_of(_records(spec, "eval", split="test"), f"eval {spec}"), _tokenizer(reader, spec))
    check_vocabulary(reader.model, ids, reader.tokenizer)
    context = sequence_length(reader.model, reader.seq_len)
    if len(ids) < context:
        raise PruningError(f"eval {spec!r} has {len(ids)} tokens, less than one sequence of {context}")
    return Tokens(ids, context)


def _samples(spec: str, what: str, reader: TextModel | None) -> CalibrationData:
    task = None if reader is None else task_of(reader.model)
    if reader is None or task not in ("causal-lm", "masked-lm", "sequence"):
        kind = "" if reader is None else f"; this one is a {type(reader.model).__name__}"
        raise PruningError(
            f"{what} {spec!r} is not package.module:function; texts and data sets by name are for transformers models "
            f"of language, named by folder or hub name{kind}"
        )
    tokenizer, records = _tokenizer(reader, spec), _records(spec, what, split="train")
    if task == "sequence":
        return classification_data(
            reader.model, records, tokenizer, seq_len=reader.seq_len, where=f"{what} {spec}"
        )  # fmt: skip
    try:
        return text_data(
            reader.model, texts_of(records, f"{what} {spec}"), tokenizer,
            seq_len=reader.seq_len, seed=reader.seed, samples=reader.samples,
        )  # fmt: skip
    except PruningError as error:
        raise PruningError(f"{what} {spec!r}: {error}") from error


def _tokenizer(reader: TextModel, spec: str) -> Any:
    if reader.tokenizer is None:
        raise PruningError(
            f"{spec!r} is text, and the model has no tokenizer beside it; save one into its folder: "
            "tokenizer.save_pretrained(folder)"
        )
    return reader.tokenizer


def _records(spec: str, what: str, *, split: str) -> list[dict[str, Any]]:
    path = Path(spec)
    if path.suffix in TEXT_FILES or path.exists():
        return read_records(path, what)
    name, _, options = spec.partition("?")
    chosen = dict(pair.partition("=")[::2] for pair in options.split("&") if pair)
    unknown = sorted(set(chosen) - {"config", "split"})
    if unknown:
        raise PruningError(f"{what} {spec!r} has the unknown option {unknown[0]!r}; a data set takes config and split")
    try:
        import datasets  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        raise PruningError(
            f"{what} {spec!r} is not a file ({', '.join(TEXT_FILES)}), and data sets by name need the package "
            "datasets: pip install datasets"
        ) from error
    try:
        rows = datasets.load_dataset(
            name, chosen.get("config"), split=chosen.get("split", split), streaming=True, trust_remote_code=False
        )
        records = list(itertools.islice((_plain(row) for row in rows), MOST_RECORDS))
    except Exception as error:  # of many kinds, by data set
        raise PruningError(f"{what} {spec!r} cannot be read: {explained(error)}") from error
    if not records:
        raise PruningError(f"{what} {spec!r} is empty")
    return records


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return dict(row)
