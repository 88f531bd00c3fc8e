"""The models and data of the benchmarks, from the folder HYBRID_ICBS_DATA (default ../shared/data)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("HYBRID_ICBS_DATA", REPOSITORY.parent / "shared" / "data"))
CACHE = REPOSITORY / "runs" / "benchmarks"


class MLPNet(nn.Sequential):
    """784-40-20-10 without biases, the small classifier of the WoodFisher and CHITA papers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (nn.Linear(a, b, bias=False) for a, b in ((784, 40), (40, 20), (20, 10)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Classifier(nn.Module):
    """784-512-512-10, the classifier of the iCBS paper."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 512), nn.Linear(512, 512), nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + self.downsample(x))


class ResNet20(nn.Module):
    """ResNet-20 for 32 x 32 images (He et al. 2016), shortcuts by 1 x 1 convolutions with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[_Block(16, 16, 1) for _ in range(3)])
        self.layer2 = nn.Sequential(_Block(16, 32, 2), _Block(32, 32, 1), _Block(32, 32, 1))
        self.layer3 = nn.Sequential(_Block(32, 64, 2), _Block(64, 64, 1), _Block(64, 64, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


def mnist(split: str, flat: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """MNIST's "train" or "test" part, normalised as the MLPNet checkpoint was trained."""
    with np.load(DATA / "mnist" / f"{split}.npz") as file:
        x = torch.from_numpy(file["x"]).float().div(255).sub(0.1307).div(0.3081)
        return x.flatten(1) if flat else x, torch.from_numpy(file["y"]).long()


def cifar10(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """CIFAR-10's "train" (10,000 images of it) or "test" part, normalised."""
    with np.load(DATA / "cifar10" / f"{split}.npz") as file:
        x = torch.from_numpy(file["x"]).permute(0, 3, 1, 2).float().div(255)
        mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
        return (x - mean[:, None, None]) / std[:, None, None], torch.from_numpy(file["y"]).long()


def mlpnet() -> MLPNet:
    """MLPNet trained on MNIST (93.97 %)."""
    return _loaded(MLPNet(), "mlpnet_mnist.safetensors")


def resnet20() -> ResNet20:
    """ResNet-20 trained on CIFAR-10; recompute its batch-norm statistics before use."""
    return _loaded(ResNet20(), "resnet20_cifar10.safetensors")


def classifier(epochs: int = 12) -> Classifier:
    """The 784-512-512-10 classifier, trained here on MNIST to about 98.5 % (once; kept in runs/benchmarks)."""
    file = CACHE / f"classifier_mnist_{epochs}.safetensors"
    model = Classifier()
    if not file.exists():
        from safetensors.torch import save_file

        torch.manual_seed(0)
        model = Classifier()
        x, y = mnist("train")
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
        batches = (len(y) + 127) // 128
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * batches)
        for _ in range(epochs):
            for index in torch.randperm(len(y)).split(128):
                optimizer.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
                schedule.step()
        CACHE.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), file)
    model.load_state_dict(load_file(file))
    return model.eval()


def llama() -> tuple[nn.Module, Any]:
    """A Llama of 1.7 million weights trained on Shakespeare, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = DATA / "llama-shakespeare"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def text(name: str) -> str:
    """A text, such as "shakespeare_train"."""
    return (DATA / "text" / f"{name}.txt").read_text("utf-8")


def _loaded(model: nn.Module, name: str) -> nn.Module:
    state = load_file(DATA / "checkpoints" / name)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or any("num_batches_tracked" not in key for key in missing):
        raise SystemExit(f"{name} does not fit: missing {missing}, unexpected {unexpected}")
    return model.eval()
