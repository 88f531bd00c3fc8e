"""Models that the command line names: a function, a file of weights with its architecture, or a transformers model."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.pretrained import quantisation, quiet_transformers
from hybrid_icbs.models.specs import call, is_spec
from hybrid_icbs.models.tasks import Task, task_of, task_of_class

TORCH_FILES = (".pt", ".pth", ".bin")
FILES = (".safetensors", *TORCH_FILES)

CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
PROCESSOR_FILES = ("preprocessor_config.json",)

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_AUTO_CLASSES: dict[Task, str] = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "tokens": "AutoModelForTokenClassification",
    "sequence": "AutoModelForSequenceClassification",
    "image": "AutoModelForImageClassification",
}


def load_model(spec: str, function: str | None = None) -> nn.Module:
    """The trained model that a specification names.

    Args:
        spec: `package.module:function`, a function without arguments that returns the trained model; a file of
            its state dict, .safetensors or .pt (only tensors are unpickled); or a transformers model, by the folder
            that `save_pretrained` wrote or by its name on the Hugging Face hub.
        function: with a file, `package.module:function` that returns the architecture.

    Raises:
        PruningError: the name does not exist, the function fails or returns no model, the file is damaged, or its
            state does not fit the architecture; the message names the keys.

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
    if is_pretrained_spec(spec):
        if function is not None:
            raise PruningError(f"--model-fn {function!r} goes with a file; {spec!r} names a whole model already")
        return _pretrained(spec)
    if function is not None:
        raise PruningError(f"--model-fn {function!r} goes with a file; {spec!r} makes the whole model already")
    return _called(spec, "model")


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, or of a state dict that `torch.save` wrote, by name.

    Raises:
        PruningError: the file does not exist, is damaged, or contains more than tensors.
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
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's message suggests weights_only=False, which would run code in the file.
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
    found = {own[key].data_ptr() for key in state if key in own}
    # Tied weights share memory, and safetensors files contain only one of their names.
    missing = [key for key, value in own.items() if key not in state and value.data_ptr() not in found]
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


def load_processor(spec: str, model: nn.Module) -> Any | None:
    """The tokenizer of a transformers model, or the image processor of an image classifier.

    Args:
        spec: a folder of `save_pretrained`, or a name on the Hugging Face hub.
        model: the model that was loaded from there.

    Returns:
        The tokenizer or processor; None if the folder has none.

    Raises:
        PruningError: it cannot be read.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    files, kind, what = (
        (PROCESSOR_FILES, AutoImageProcessor, "image processor")
        if task_of(model) == "image"
        else (TOKENIZER_FILES, AutoTokenizer, "tokenizer")
    )
    if Path(spec).is_dir() and not any((Path(spec) / name).is_file() for name in files):
        return None
    try:
        return kind.from_pretrained(spec, trust_remote_code=False)
    except Exception as error:  # the types depend on the class
        raise PruningError(f"the {what} of {spec!r} cannot be read: {_line(error)}") from error


def is_pretrained_spec(spec: str) -> bool:
    """Whether a specification is a folder of `save_pretrained`, or can be a name on the Hugging Face hub."""
    return not is_spec(spec) and ".py" not in spec and Path(spec).suffix not in FILES


def _pretrained(spec: str) -> nn.Module:
    """A model from a folder of `save_pretrained`, or by its name on the Hugging Face hub.

    Only safetensors are read, and code that comes with a model is not run.
    """
    folder = Path(spec)
    if folder.is_dir():
        _check_folder(folder)
    elif folder.exists() or not _HUB_NAME.fullmatch(spec):
        raise PruningError(
            f"model {spec!r} is neither package.module:function, a file ({', '.join(FILES)}), a folder that "
            "save_pretrained wrote, nor a name on the Hugging Face hub"
        )
    config = _config(spec)
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        raise PruningError(
            f"model {spec!r} has quantised weights ({quantisation(quantised)}); prune it in its full precision, and "
            "quantise the result"
        )
    with quiet_transformers():
        try:
            model, found = _auto_class(spec, config).from_pretrained(
                spec, config=config, dtype="auto", use_safetensors=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
        except PruningError:
            raise
        except Exception as error:  # damaged files, wrong shapes, no connection to the hub
            raise PruningError(f"model {spec!r} cannot be loaded: {_line(error)}") from error
    faults = [
        f"{what} {_some(sorted(map(str, found.get(key, ()))))}"
        for what, key in (("lacks the weights", "missing_keys"), ("has another shape:", "mismatched_keys"))
        if found.get(key)
    ]
    if faults:
        kind = type(model).__name__
        raise PruningError(f"model {spec!r} does not fit its config ({kind}): it {'; it '.join(faults)}")
    return cast(nn.Module, model.eval())


def _check_folder(folder: Path) -> None:
    names = {file.name for file in folder.iterdir()}
    if (folder / "model" / CONFIG).is_file() and not _is_transformers(folder / CONFIG):
        raise PruningError(f"model {str(folder)!r} is a run's folder; its model is {str(folder / 'model')!r}")
    if CONFIG not in names:
        raise PruningError(f"model folder {folder} has no {CONFIG}; a folder that save_pretrained wrote is needed")
    if not any(name.endswith(".safetensors") for name in names):
        others = sorted(name for name in names if name.endswith((".bin", ".pt", ".h5", ".msgpack")))
        instead = f", only {', '.join(others)}, which is not read as it can contain code" if others else ""
        raise PruningError(
            f"model folder {folder} has no .safetensors weights{instead}. Save it again with transformers: "
            "model.save_pretrained(folder)"
        )


def _is_transformers(file: Path) -> bool:
    try:
        return "model_type" in json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return False


def _config(spec: str) -> Any:
    from transformers import AutoConfig, PreTrainedConfig

    try:
        plain, _ = PreTrainedConfig.get_config_dict(spec)
    except Exception as error:
        where = "" if Path(spec).is_dir() else " (no such folder here, and on the Hugging Face hub)"
        raise PruningError(f"model {spec!r}{where} cannot be found or read: {_line(error)}") from error
    if "auto_map" in plain and not _known(plain.get("model_type")):
        raise PruningError(
            f"model {spec!r} needs code that comes with it ({plain['auto_map']}), and such code is never run; load it "
            "yourself, in a function that --model names"
        )
    if not _known(plain.get("model_type")):
        raise PruningError(
            f"model {spec!r} has the type {plain.get('model_type')!r} in its {CONFIG}, which the installed "
            "transformers does not know"
        )
    try:
        return AutoConfig.from_pretrained(spec, trust_remote_code=False)
    except Exception as error:  # raised by the checks of the config's class
        raise PruningError(f"the {CONFIG} of model {spec!r} cannot be used: {_line(error)}") from error


def _known(model_type: Any) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def _auto_class(spec: str, config: Any) -> Any:
    """The auto class of transformers for the task of the model's architecture."""
    import transformers

    names = list(getattr(config, "architectures", None) or ())
    tasks = [found for name in names if (found := task_of_class(name))]
    if not tasks:
        raise PruningError(
            f"model {spec!r} is {' or '.join(names) or 'of no class that its config names'}; models for causal or "
            "masked language modelling and for classification (of sequences, tokens or images) can be loaded by "
            "name, others in a function that --model names"
        )
    return getattr(transformers, _AUTO_CLASSES[tasks[0]])


def _some(names: Iterable[Any], most: int = 5) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
