"""Models and data named in text: found, read without trust, and refused in one clear sentence."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from hybrid_icbs import PruningError
from hybrid_icbs.data.loading import load_data
from hybrid_icbs.models.loading import load_model, read_state
from hybrid_icbs.models.specs import load_function

NETS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))

def tied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model

def pair(): return torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)
def uneven(): return torch.zeros(6, 4), torch.zeros(5, dtype=torch.long)
def batches(): return ([torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)] for _ in range(3))
def number(): return 7
def broken(): raise ValueError("no weights\\nhere")
def demanding(size): return nn.Linear(size, size)
def leaving(): raise SystemExit(3)
constant = 7
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A folder with a module of the user's, and modules that do not load."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "needy.py").write_text("import surely_not_installed\n")
    (tmp_path / "wrong.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("nets", "needy", "wrong"):
        sys.modules.pop(name, None)


def test_a_function_gives_the_model(nets):
    assert isinstance(load_model("nets:net"), nn.Sequential)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth"])
def test_a_file_and_its_architecture_give_the_saved_weights(nets, ending):
    trained = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    file = nets / f"net{ending}"
    if ending == ".safetensors":
        save_file(trained.state_dict(), file)
    else:
        torch.save(trained.state_dict(), file)
    loaded = load_model(str(file), "nets:net")
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_tied_weights_which_a_file_holds_once_are_both_read(nets):
    trained = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    trained[1].weight = trained[0].weight
    save_model(trained, "tied.safetensors")
    loaded = load_model("tied.safetensors", "nets:tied")
    assert torch.equal(loaded[1].weight, trained[0].weight)
    assert loaded[1].weight is loaded[0].weight


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere:net", "no module 'nowhere'"),
        ("nets.deeper:net", "nets"),
        ("nets:nett", "did you mean 'net'"),
        ("nets:constant", "is of type int; a function is needed"),
        ("nets:number", "returned something of type int; a torch.nn.Module is needed"),
        ("nets:broken", "ValueError: no weights here"),
        ("nets:demanding", "TypeError"),
        ("nets:leaving", "SystemExit"),
        ("needy:net", "does not load: ModuleNotFoundError: No module named 'surely_not_installed'"),
        ("wrong:net", "does not load: SyntaxError"),
        ("nets.py:net", "nets:net"),
        ("somebody/some-model", "no such folder here"),
        ("net.safetensors", "--model-fn"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_with_the_reason(nets, spec, message):
    with pytest.raises(PruningError, match=message) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)


def test_a_function_that_raised_is_told_with_its_line(nets):
    line = NETS.splitlines().index('def broken(): raise ValueError("no weights\\nhere")') + 1
    with pytest.raises(PruningError, match=rf"nets\.py, line {line}"):
        load_model("nets:broken")


def test_an_architecture_function_without_a_file_is_refused(nets):
    with pytest.raises(PruningError, match="goes with a file"):
        load_model("nets:net", "nets:net")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("2.bias"), "lacks 2.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "has the unknown extra"),
        (lambda state: state.update({"0.weight": torch.zeros(3, 5)}), r"0.weight \[3, 5\] instead of \[3, 4\]"),
        (lambda state: [state.pop(key) for key in list(state)] + [state.update(w=torch.zeros(1))], "lacks .* it has"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_its_keys(nets, change, message):
    state = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).state_dict()
    change(state)
    save_file(state, "net.safetensors")
    with pytest.raises(PruningError, match=message):
        load_model("net.safetensors", "nets:net")


class Exploding:
    """Unpickling this would write a file."""

    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.parametrize("save", [torch.save, lambda thing, file: Path(file).write_bytes(pickle.dumps(thing))])
def test_a_file_that_would_run_code_is_not_opened(nets, save):
    save(Exploding(), "net.pt")
    with pytest.raises(PruningError, match=r"net\.pt"):
        read_state("net.pt")
    assert not (nets / "exploded").exists()


def test_a_whole_saved_model_is_refused_with_the_way_to_save_its_state(nets):
    torch.save(nn.Linear(2, 2), "net.pt")
    with pytest.raises(PruningError, match=r"torch\.save\(model\.state_dict\(\), file\)") as caught:
        read_state("net.pt")
    assert "weights_only" not in str(caught.value)


def test_a_checkpoint_of_more_than_a_state_is_refused_by_its_keys(nets):
    torch.save({"epoch": 3, "state_dict": nn.Linear(2, 2).state_dict()}, "net.pt")
    with pytest.raises(PruningError, match="the keys epoch, state_dict"):
        read_state("net.pt")


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0, 1, 9, 40, -1])
def test_a_truncated_file_is_refused(nets, ending, keep):
    file = nets / f"net{ending}"
    state = nn.Linear(8, 8).state_dict()
    save_file(state, file) if ending == ".safetensors" else torch.save(state, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(PruningError, match=f"net{ending}"):
        read_state(file)


@pytest.mark.parametrize("name", ["absent.safetensors", "folder.pt"])
def test_what_is_no_file_is_refused(nets, name):
    (nets / "folder.pt").mkdir()
    with pytest.raises(PruningError, match=r"does not exist|is not a file"):
        read_state(name)


@pytest.mark.parametrize("function", ["pair", "batches"])
def test_a_function_gives_the_data(nets, function):
    assert len(load_data(f"nets:{function}")) == 6


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nets:uneven", "6 inputs and 5 targets"),
        ("nets:number", "int; give a pair of tensors"),
        ("nets:broken", "ValueError: no weights here"),
        ("wikitext", "for transformers models"),
    ],
)
def test_data_that_cannot_be_had_is_refused_with_the_reason(nets, spec, message):
    with pytest.raises(PruningError, match=message):
        load_data(spec)


def test_a_function_is_named_as_a_module_and_not_as_a_file(nets):
    with pytest.raises(PruningError, match="a file is named as a module: nets:net"):
        load_function("./nets.py:net", "model")
