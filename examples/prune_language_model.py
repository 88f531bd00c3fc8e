"""
Prune a language model
======================

A small Llama is trained on the text of Python's help pages, then 70 % of its weights are pruned. Nothing is downloaded.
Training takes about a minute. The documentation shows this example and does not run it.

Run it: python examples/prune_language_model.py
"""

import sys
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hybrid_icbs import prune
from hybrid_icbs.data.perplexity import perplexity

CONTEXT, BATCH, STEPS = 128, 16, 180

# %%
# Help pages for training and calibration, and others for the evaluation.

texts = [text for name, text in sorted(topics.items())]
train, test = [text for k in range(7) for text in texts[k::8]], texts[7::8]

# %%
# A tokenizer with 512 tokens.

pieces = Tokenizer(models.BPE())
pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
pieces.train_from_iterator(train, trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, show_progress=False))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces)

# %%
# A small model of the Llama architecture, trained to predict the next token.

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
)
ids = torch.tensor(tokenizer("\n\n".join(train))["input_ids"])
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS, pct_start=0.1)
for step in range(STEPS):
    starts = torch.randint(len(ids) - CONTEXT, (BATCH,))
    batch = torch.stack([ids[start : start + CONTEXT] for start in starts])
    loss = model(input_ids=batch, labels=batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % 50 == 0:
        print(f"training: step {step} of {STEPS}, loss {loss.item():.2f}", file=sys.stderr)
model.eval()

# %%
# Keep 30 % of the weights of the decoder blocks. Texts are tokenized and cut into sequences of one length.

settings = {"tokenizer": tokenizer, "seq_len": CONTEXT, "density": 0.3, "progress": False}
result = prune(model, train, backend="tabu", block_size=4096, batch_size=64, steps=8, **settings)
magnitude = prune(model, train, steps=0, **settings)


def continuation(model: LlamaForCausalLM) -> str:
    """Continue a prompt with the most likely token at each step."""
    prompt = tokenizer("The statement ", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for _ in range(40):
            prompt = torch.cat([prompt, model(input_ids=prompt).logits[:, -1:].argmax(-1)], 1)
    return " ".join(tokenizer.decode(prompt[0]).split())


for name, each in (("dense", model), ("magnitude", magnitude.model), ("iCBS", result.model)):
    found = perplexity(each, test, tokenizer, context=CONTEXT)
    print(f"{name:<10} perplexity {found}")
    print(f"{'':<10} {continuation(each)}")
print(f"{result.density:.2f} of the weights in {len(result.masks)} layers are kept")
