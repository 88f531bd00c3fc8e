"""Where a run's model and data come from: the texts of the command line, kept in the journal for a resume."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from hybrid_icbs.data.calibration import CalibrationData
from hybrid_icbs.data.evaluation import Evaluation
from hybrid_icbs.data.loading import TextModel, load_data, load_test
from hybrid_icbs.data.losses import Loss, loss_for
from hybrid_icbs.data.model_data import data_for
from hybrid_icbs.data.text import SAMPLES, TEXT_FILES
from hybrid_icbs.models.loading import FILES, is_pretrained_spec, load_model, load_processor
from hybrid_icbs.models.specs import load_function


class Loaded(NamedTuple):
    """What :class:`Sources` name; `test` is None where no test data are named."""

    model: nn.Module
    data: CalibrationData
    loss: Loss
    test: Evaluation | None


@dataclass(frozen=True)
class Sources:
    """The texts that name a run's model and data.

    Attributes:
        model: `package.module:function`, a file of weights or a transformers model's folder, by its full path, or a
            name on the Hugging Face hub.
        data: `package.module:function` of the calibration data, a text file by its full path, or a data set's name.
        model_fn: with a file, `package.module:function` of the architecture.
        loss: `package.module:function` of the per-sample loss; None for the model's own.
        test: likewise of test data, one or several; None for none.
        folder: from which modules are imported besides those that are installed.
        seq_len: tokens of a sequence, for texts; None for 512, or the model's context where that is shorter.
        samples: sequences that are drawn from a text at most.
        seed: of the draw.
    """

    model: str
    data: str
    model_fn: str | None = None
    loss: str | None = None
    test: str | Sequence[str] | None = None
    folder: str = ""
    seq_len: int | None = None
    samples: int = SAMPLES
    seed: int = 0

    @classmethod
    def named(cls, model: str, data: str, **others: Any) -> Sources:
        """Sources as a command line in the current folder names them."""
        test = others.pop("test", None)
        tests = [test] if isinstance(test, str) else list(test or ())
        return cls(_full(model), _full(data), test=[_full(each) for each in tests], folder=os.getcwd(), **others)

    def load(self) -> Loaded:
        """Import, call and read what is named.

        Raises:
            PruningError: something cannot be found or used; the message says what.
        """
        for folder in (self.folder, os.getcwd()):
            if folder and folder not in sys.path:
                sys.path.insert(0, folder)
        given: Any = None if self.loss is None else load_function(self.loss, "loss")
        reader = None
        if is_pretrained_spec(self.model):
            reader = self._reader(load_model(self.model, self.model_fn))
        data = load_data(self.data, reader=reader)
        model = reader.model if reader else load_model(self.model, self.model_fn)
        if reader is None:
            data = data_for(model, data)
        names = [self.test] if isinstance(self.test, str) else list(self.test or ())
        test = Evaluation({_short(name): load_test(name, reader) for name in names}) if names else None
        return Loaded(model, data, given or loss_for(model), test)

    def _reader(self, model: nn.Module) -> TextModel:
        processor = load_processor(self.model, model)
        return TextModel(model, processor, self.seq_len, self.samples, self.seed)


def _full(spec: str) -> str:
    """The full path of a file or folder that is named; other texts as they are."""
    path = Path(spec)
    named = path.suffix in (*FILES, *TEXT_FILES) and ":" not in path.name
    return str(path.resolve()) if named or path.is_dir() else spec


def _short(spec: str) -> str:
    return Path(spec).name if Path(spec).suffix in TEXT_FILES else spec
