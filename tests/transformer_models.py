"""Small transformers models of random weights, by architecture, and what their samples are."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

VOCABULARY = 64
_DECODER = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_ENCODER = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 32, "num_labels": 3,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 8,
    "patch_size": 4, "num_channels": 1, "num_labels": 10,
}  # fmt: skip

CAUSAL = ("llama", "mistral", "qwen2", "gpt2")
ALL = (*CAUSAL, "bert-masked", "bert-sequence", "vit", "deit")


def make(name: str, seed: int = 0) -> Any:
    """A model in evaluation mode."""
    torch.manual_seed(seed)
    model: nn.Module = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**_DECODER, tie_word_embeddings=True)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**_DECODER)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_DECODER)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0
            )
        ),
        "bert-masked": lambda: BertForMaskedLM(BertConfig(**_ENCODER)),
        "bert-sequence": lambda: BertForSequenceClassification(BertConfig(**_ENCODER)),
        "vit": lambda: ViTForImageClassification(ViTConfig(**_VISION)),
        "deit": lambda: DeiTForImageClassification(DeiTConfig(**_VISION)),
    }[name]()  # fmt: skip
    for p in model.parameters():  # away from zeros and ones, at which some gradients vanish
        p.data += 0.1 * torch.randn_like(p)
    return model.eval()


def samples(name: str, count: int, length: int = 12) -> dict[str, torch.Tensor]:
    """A batch as the model takes it, of causal language models without labels; sequences of different lengths."""
    generator = torch.Generator().manual_seed(1)
    if name in ("vit", "deit"):
        pixels = torch.randn(count, 1, 8, 8, generator=generator)
        return {"pixel_values": pixels, "labels": torch.arange(count) % 10}
    ids = torch.randint(3, VOCABULARY, (count, length), generator=generator)
    mask = (torch.arange(length) < length - torch.arange(count)[:, None] % 4).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    if name == "bert-sequence":
        return {**batch, "labels": torch.arange(count) % 3}
    if name == "bert-masked":
        hidden = (torch.arange(length) % 3 == 0).expand(count, -1) & mask.bool()
        return {
            **batch,
            "input_ids": batch["input_ids"].masked_fill(hidden, 1),
            "labels": ids.masked_fill(~hidden, -100),
        }
    return batch


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single letters, other characters being [UNK]."""
    letters = ["[UNK]", "[MASK]", "[PAD]", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,\n"]
    tokenizer = Tokenizer(models.WordLevel({letter: n for n, letter in enumerate(letters)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", mask_token="[MASK]", pad_token="[PAD]"
    )  # fmt: skip
