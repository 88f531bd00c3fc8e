"""Files of masks: a bit per weight, the former format, damaged files; and masks applied to a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hybrid_icbs import Masks, PruningError, apply_masks, load_masks


def some(seed: int = 0) -> Masks:
    masks = Masks({"z.weight": (3, 5), "a.weight": (4, 2, 3, 3), "empty": (0, 7), "one": (1,)})
    rng = np.random.default_rng(seed)
    for name in masks:
        masks.set_flat(name, rng.random(masks.size(name)) < 0.5)
    return masks


def test_masks_are_saved_and_loaded(tmp_path: Path) -> None:
    masks = some()
    masks.save(tmp_path / "masks.safetensors")
    for found in (load_masks(tmp_path / "masks.safetensors"), Masks.load(str(tmp_path / "masks.safetensors"))):
        assert list(found) == list(masks)
        assert all(torch.equal(found[name], masks[name]) and found[name].dtype == torch.bool for name in masks)
        assert found.checksum() == masks.checksum()
        assert (found.kept(), found.density("z.weight")) == (masks.kept(), masks.density("z.weight"))


def test_equal_masks_give_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        Masks.of(dict(some())).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_takes_a_bit_a_weight(tmp_path: Path) -> None:
    Masks({"w": (1000, 1000)}).save(tmp_path / "masks")
    assert 125_000 <= (tmp_path / "masks").stat().st_size < 126_000


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_files_of_a_byte_a_weight_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    masks = some()
    save_file({name: mask.to(dtype) for name, mask in masks.items()}, tmp_path / "old", metadata={"true": "kept"})
    found = load_masks(tmp_path / "old")
    assert all(torch.equal(found[name], masks[name]) for name in masks)


BITS = {"w": torch.zeros(2, dtype=torch.uint8)}


def header(**changes: Any) -> str:
    return json.dumps({"version": "2", "true": "kept", "shapes": {"w": [3, 5]}} | changes)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (BITS, header(shapes={"w": [1 << 40, 1 << 20]}), r"'w' is U8 \[2\], not the bits of a mask of shape"),
        (BITS, header(shapes={"w": [3, 6]}), r"not the bits of a mask of shape \[3, 6\]"),
        (BITS, header(shapes={"w": [2, 4]}), r"not the bits of a mask of shape \[2, 4\]"),
        (BITS, header(shapes={"w": [-3, -5]}), "the shapes of the masks are damaged"),
        (BITS, header(shapes={"w": [True, 9]}), "the shapes of the masks are damaged"),
        (BITS, header(shapes={"w": []}), "the shapes of the masks are damaged"),
        (BITS, header(shapes={"w": [1] * 8 + [15]}), "the shapes of the masks are damaged"),
        (BITS, header(shapes={"w": 15}), "the shapes of the masks are damaged"),
        (BITS, header(shapes=[15]), "the shapes of the masks are damaged"),
        (BITS, header(shapes={"v": [3, 5]}), "the shapes name other tensors than the file contains"),
        (BITS, header(version="3"), "format version '3'; this version of hybrid-icbs reads 2"),
        (BITS, "[]", "the metadata of the masks are damaged"),
        (BITS, "{", "the metadata of the masks are damaged"),
        ({"w": torch.zeros(2)}, header(), r"'w' is F32 \[2\], not the bits"),
        ({"w": torch.zeros(3, 5)}, None, "tensor 'w' is no mask; booleans are needed"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: str | None, message: str
) -> None:
    save_file(tensors, tmp_path / "masks", metadata=None if metadata is None else {"masks": metadata})
    with pytest.raises(PruningError, match=message) as caught:
        load_masks(tmp_path / "masks")
    assert str(tmp_path / "masks") in str(caught.value)


def test_a_shape_of_eight_dimensions_is_read(tmp_path: Path) -> None:
    Masks({"w": (1,) * 7 + (15,)}).save(tmp_path / "masks")
    assert load_masks(tmp_path / "masks")["w"].shape == (1,) * 7 + (15,)


def test_a_file_that_is_missing_or_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match=r"masks .*none cannot be read"):
        load_masks(tmp_path / "none")
    some().save(tmp_path / "masks")
    (tmp_path / "cut").write_bytes((tmp_path / "masks").read_bytes()[:-1])
    with pytest.raises(PruningError, match=r"masks .*cut cannot be read"):
        load_masks(tmp_path / "cut")


def test_a_mask_of_another_size_is_refused() -> None:
    masks = Masks({"w": (3, 5)})
    with pytest.raises(PruningError, match="the mask of w has 14 entries; the weight has 15"):
        masks.set_flat("w", np.ones(14, np.bool_))
    with pytest.raises(PruningError, match="has 15 entries"):
        masks.set_flat("w", np.ones((3, 5), np.bool_))


@pytest.mark.parametrize("packed", [True, False])
def test_masks_are_applied_to_a_model(packed: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    before = model[0].weight.detach().clone()
    mask = torch.rand(3, 5) < 0.5
    apply_masks(model, Masks.of({"0.weight": mask}) if packed else {"0.weight": mask})
    assert torch.equal(model[0].weight, before * mask)
    assert model[1].weight.all()


def test_masks_of_another_model_are_refused_and_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(5, 3))
    before = model[0].weight.detach().clone()
    none = torch.zeros(3, 5, dtype=torch.bool)
    with pytest.raises(PruningError, match=r"no parameter '1\.weight', for which"):
        apply_masks(model, {"0.weight": none, "1.weight": none})
    with pytest.raises(PruningError, match=r"no parameter '1\.weight' and 1 more, for which"):
        apply_masks(model, {"1.weight": none, "2.weight": none})
    for masks in ({"0.weight": none, "0.bias": none}, Masks.of({"0.weight": none, "0.bias": none})):
        with pytest.raises(PruningError, match=r"mask of '0\.bias' has shape \[3, 5\], its weight \[3\]"):
            apply_masks(model, masks)
    assert torch.equal(model[0].weight, before)


def test_masks_of_tied_weights_apply_under_each_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    apply_masks(model, {"1.weight": torch.eye(3) > 0})
    assert int((model[0].weight != 0).sum()) == 3
