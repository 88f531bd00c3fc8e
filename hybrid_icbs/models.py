"""Models that a command line names: a function that returns one, or a saved file and the architecture it fits."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from hybrid_icbs.errors import PruningError
from hybrid_icbs.specs import call, is_spec

TORCH_FILES = (".pt", ".pth", ".bin")
FILES = (".safetensors", *TORCH_FILES)


def load_model(spec: str, function: str | None = None) -> nn.Module:
    """The trained model that a text names.

    Args:
        spec: `package.module:function`, a function without arguments that returns the trained model; or a file of
            its state, .safetensors or .pt (read without unpickling anything but tensors).
        function: with a file, `package.module:function` of the architecture into which the state is loaded.

    Raises:
        PruningError: nothing of that name, a function that fails or returns something else, a damaged file, or a
            state that does not fit the architecture; the message names the keys.

    Example:
        >>> type(load_model("torch.nn:Flatten")).__name__
        'Flatten'
    """
    if Path(spec).suffix in FILES and not is_spec(spec):
        if function is None:
            raise PruningError(
                f"model {spec!r} holds weights alone; name the function that makes the architecture, too: "
                "--model-fn package.module:function"
            )
        state = read_state(spec)
        model = _called(function, "model-fn")
        _fill(model, state, spec, function)
        return model
    if not is_spec(spec) and ".py" not in spec:
        return _pretrained(spec)
    if function is not None:
        raise PruningError(f"--model-fn {function!r} goes with a file; {spec!r} makes the whole model already")
    return _called(spec, "model")


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, or of a state dict that `torch.save` wrote, by name.

    Raises:
        PruningError: no such file, a damaged one, or one that holds other things than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise PruningError(f"model file {path} {'is not a file' if path.exists() else 'does not exist'}")
    if path.stat().st_size == 0:
        raise PruningError(f"model file {path} is empty")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    except OSError as error:
        raise PruningError(f"model file {path} cannot be read: {error}") from error
    except SafetensorError as error:
        raise PruningError(f"model file {path} is damaged, or no safetensors file: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        held = f"the keys {_some(state)}" if isinstance(state, Mapping) else f"something of type {type(state).__name__}"
        raise PruningError(
            f"model file {path} holds {held}, not tensors by name; save it by torch.save(model.state_dict(), file)"
        )
    return dict(state)


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; a file that cannot be read is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's own text suggests weights_only=False, which would run what the file says.
        if zipfile.is_zipfile(path):
            raise PruningError(
                f"model file {path} holds more than tensors, a whole model perhaps; opening such a file can run code "
                "that it contains, so it is not opened. Save the state alone: torch.save(model.state_dict(), file)"
            ) from error
        raise PruningError(f"model file {path} is damaged, or no file of torch.save") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise PruningError(f"model file {path} is damaged, or no file of torch.save: {_line(error)}") from error


def _fill(model: nn.Module, state: dict[str, torch.Tensor], path: str, function: str) -> None:
    own = model.state_dict()
    given = {own[key].data_ptr() for key in state if key in own}
    # Of tied weights, which share their memory, safetensors files hold one name only.
    missing = [key for key, value in own.items() if key not in state and value.data_ptr() not in given]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in state
        if key in own and state[key].shape != own[key].shape
    ]
    faults = [
        f"{what} {_some(keys)}"
        for what, keys in (("lacks", missing), ("has the unknown", unexpected), ("has another shape:", shapes))
        if keys
    ]
    if faults:
        raise PruningError(f"model file {path} does not fit the model of {function}: it {'; it '.join(faults)}")
    model.load_state_dict(state, strict=False)


def _called(spec: str, what: str) -> nn.Module:
    model = call(spec, what)
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise PruningError(f"{what} {spec!r} returned something of type {kind}; a torch.nn.Module is needed")
    return model


def _pretrained(spec: str) -> nn.Module:
    """Where a name on the Hugging Face hub, or a folder of `save_pretrained`, will be read."""
    raise PruningError(
        f"model {spec!r} is neither package.module:function nor a file ({', '.join(FILES)}); transformers models by "
        "folder or hub name are not supported yet"
    )


def _some(names: Iterable[Any], most: int = 5) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
