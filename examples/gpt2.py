"""GPT-2 of Hugging Face's Transformers, with random weights, on the law that altgrad trains on.

    pip install 'altgrad[hf]'
    altgrad train subject=examples/gpt2.py:subject fp8_format=E5M2 precision.regime=standard

Its ``Conv1D`` layers are linear layers with their weight lying the other way round; they are rounded like
any linear layer, and a checkpoint holds their weights as (out, in). Embeddings, LayerNorms and the products
inside the attention stay in float32, the tied head in BF16. Dropout inside the attention would draw random
numbers that a repeated step cannot draw again: it is off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from altgrad_cli import Batch, Subject
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.subjects.corpus.batches import draw_batch
from altgrad_cli.subjects.corpus.tokens import load_corpus


@dataclass(frozen=True)
class Builder:
    """A GPT-2 of one size: frozen, so that equal ones are known to build the same."""

    layers: int
    heads: int
    width: int
    block: int
    vocabulary: int

    def __call__(self, generator: torch.Generator) -> GPT2LMHeadModel:
        """Transformers draws the weights from torch's default stream, which is seeded for each run."""
        return GPT2LMHeadModel(
            GPT2Config(
                n_layer=self.layers,
                n_head=self.heads,
                n_embd=self.width,
                n_positions=self.block,
                vocab_size=self.vocabulary,
                attn_pdrop=0.0,
                use_cache=False,
                bos_token_id=None,
                eos_token_id=None,
            )
        )


def loss(output: object, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Next-token loss in nats; the model gives its logits in a record."""
    return F.cross_entropy(output.logits.flatten(0, 1), targets.flatten(), reduction=reduction)


def kind(name: str) -> str:
    """The head is tied to the embedding; two layers a block are fed by a LayerNorm."""
    if name == "lm_head":
        return "head"
    return "normalised" if name.endswith(("c_attn", "c_fc")) else "hidden"


def subject(config: TrainConfig) -> Subject:
    """Size and data as the config says them, so that ``model.n_layer=4 data.path=law.jsonl`` works."""
    model, corpus = config.model, load_corpus(config.data, config.model.block_size)
    size = (model.n_layer, model.n_head, model.n_embd, model.block_size, corpus.vocab_size)

    def train(generator: torch.Generator) -> Batch:
        return draw_batch(corpus.train, config.batch_size, model.block_size, generator)

    def validation(generator: torch.Generator) -> Batch:
        return draw_batch(corpus.validation, config.batch_size, model.block_size, generator)

    return Subject(Builder(*size), loss, train, validation, kind=kind, corpus=corpus)
