"""Pooled: a frozen backbone whose token vectors are averaged, and one linear layer that is trained on the average.

Averaging is how sentence encoders such as MiniLM were trained to be read (Reimers & Gurevych 2019, arXiv:1908.10084).
The backbone's output does not change during training, so it is computed once; only the layer is stored:
    hidden = AutoModel.from_pretrained(base)(**batch).last_hidden_state          # (rows, tokens, width)
    mask = batch["attention_mask"][..., None]
    logits = (hidden * mask).sum(1) / mask.sum(1) @ head["weight"].T + head["bias"]
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from transformers.modeling_outputs import SequenceClassifierOutput

from stepladder import models

HEAD = "head.safetensors"


class PooledClassifier(torch.nn.Module):
    """Frozen backbone, mean over the text's tokens, linear layer over the labels."""

    def __init__(self, backbone, num_labels: int):
        super().__init__()
        self.base_model, self.config = backbone.requires_grad_(False), backbone.config
        self.head = torch.nn.Linear(backbone.config.hidden_size, num_labels)

    def embed(self, input_ids, attention_mask) -> torch.Tensor:
        """Return the mean vector of each row's tokens, (rows, width)."""
        hidden = self.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)

    def forward(self, input_ids=None, attention_mask=None, features=None, **_others) -> SequenceClassifierOutput:
        """Return logits (rows, labels) of tokens, or of `features` that `embed` returned before."""
        if features is None:
            features = self.embed(input_ids, attention_mask)
        return SequenceClassifierOutput(logits=self.head(features))

    def train(self, mode: bool = True):
        """Switch the head alone: a frozen backbone never drops anything out."""
        super().train(mode)
        self.base_model.eval()
        return self

    def save_pretrained(self, folder: Path) -> None:
        """Write the head; the backbone stays where it is."""
        save_file({key: value.contiguous() for key, value in self.head.state_dict().items()}, Path(folder) / HEAD)

    def load_head(self, folder: Path) -> None:
        """Read the head that `save_pretrained` wrote."""
        self.head.load_state_dict(load_file(Path(folder) / HEAD))


def classifier(folder: Path, labels: list[str], *, seed: int | None) -> PooledClassifier:
    """Return the frozen backbone of `folder` with a new head over `labels`."""
    with models.opening(folder):
        backbone = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32, use_safetensors=True)
    torch.manual_seed(seed or 0)
    return PooledClassifier(backbone, len(labels)).eval()
