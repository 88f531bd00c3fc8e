"""Where a run's model and data come from: the texts of the command line, kept in the journal for a resume."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from hybrid_icbs.calibration import CalibrationData, Loss, cross_entropy
from hybrid_icbs.data import load_data
from hybrid_icbs.models import FILES, load_model
from hybrid_icbs.specs import load_function


class Loaded(NamedTuple):
    """What :class:`Sources` name; `test` is None where no test data is named."""

    model: nn.Module
    data: CalibrationData
    loss: Loss
    test: CalibrationData | None


@dataclass(frozen=True)
class Sources:
    """The texts that name a run's model and data.

    Attributes:
        model: `package.module:function`, or a file of weights, by its full path.
        data: `package.module:function` of the calibration data.
        model_fn: with a file, `package.module:function` of the architecture.
        loss: `package.module:function` of the per-sample loss; None for cross entropy.
        test: `package.module:function` of test data; None for none.
        folder: from which modules are imported besides those that are installed.
    """

    model: str
    data: str
    model_fn: str | None = None
    loss: str | None = None
    test: str | None = None
    folder: str = ""

    @classmethod
    def named(cls, model: str, data: str, **others: str | None) -> Sources:
        """Sources as a command line in the current folder names them."""
        path = str(Path(model).resolve()) if Path(model).suffix in FILES and ":" not in Path(model).name else model
        return cls(path, data, folder=os.getcwd(), **others)

    def load(self) -> Loaded:
        """Import, call and read what is named.

        Raises:
            PruningError: something cannot be found or used; the message says what.
        """
        for folder in (self.folder, os.getcwd()):
            if folder and folder not in sys.path:
                sys.path.insert(0, folder)
        loss: Any = cross_entropy if self.loss is None else load_function(self.loss, "loss")
        data = load_data(self.data)
        test = None if self.test is None else load_data(self.test, "eval")
        return Loaded(load_model(self.model, self.model_fn), data, loss, test)
