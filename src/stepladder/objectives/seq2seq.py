"""Seq2seq: an encoder reads the prompt, a decoder writes the answer; cross-entropy on the answer's tokens.

What objective `response` is for a decoder, for a model of two halves, such as T5 (Raffel et al. 2020,
arXiv:1910.10683): the prompt has the whole of `max_length`, and the model itself shifts the answer by one.
"""

import torch
from torch import Tensor

from stepladder import virtual
from stepladder.objectives import IGNORED, response


class Objective(response.Objective):
    """Next-token loss of the decoder; `labels` is None where the answer is free text."""

    def collate(self, examples: list[dict]) -> dict[str, Tensor | list]:
        """Return prompts padded on the right, answers as lists, labels and row (rows)."""
        ids = {"input_ids": [e["ids"] for e in examples]}
        return {
            **self.tokenizer.pad(ids, padding_side="right", return_tensors="pt"),
            "answers": [e["answer"] for e in examples],
            "labels": torch.tensor([e["label"] for e in examples]),
            "row": torch.tensor([e["row"] for e in examples]),
        }

    def share(self, model, examples: list[dict]) -> None:
        """Share nothing: an encoder reads each prompt both ways."""

    def _room(self) -> int:
        return self.max_length

    def _label_ids(self, label: str) -> list[int]:
        return self._answer_ids(label)

    def _token_losses(self, model, batch: dict) -> tuple[Tensor, Tensor]:
        losses, wanted = token_losses(model, _read(batch), batch["answers"])
        return losses.sum(1), (wanted != IGNORED).sum(1)

    def _scores(self, model, batch: dict) -> Tensor:
        read = _read(batch)
        if not virtual.count(model):  # the labels share what the encoder made of the prompt
            encoder = getattr(model, "get_base_model", lambda: model)().get_encoder()
            read = {"encoder_outputs": encoder(**read), "attention_mask": read["attention_mask"]}
        rows = len(batch["row"])
        return torch.stack([-token_losses(model, read, [ids] * rows)[0].sum(1) for ids in self.label_ids], dim=1)

    def _written(self, model, batch: dict) -> list[dict]:
        plain = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        decoding = dict(self.decoding)
        one_line = decoding.pop("one_line")
        written = model.generate(**_read(batch), **decoding, **plain)[:, 1:]  # behind the token that starts the decoder
        texts = [text.strip() for text in self.tokenizer.batch_decode(written, skip_special_tokens=True)]
        texts = [text.split("\n")[0].strip() if one_line else text for text in texts]
        return [{**row, "text": text} for row, text in zip(self.losses(model, batch), texts, strict=True)]


def _read(batch: dict) -> dict[str, Tensor]:
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


def token_losses(model, read: dict, answers: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return the nats of each token of the answers (rows, width), zero where a row has no more, and the tokens."""
    wanted = torch.full((len(answers), max(1, *map(len, answers))), IGNORED)
    for row, answer in enumerate(answers):
        wanted[row, : len(answer)] = torch.tensor(answer, dtype=torch.long)
    wanted = wanted.to(read["attention_mask"].device)
    logits = model(**read, labels=wanted, use_cache=False).logits.float()  # (rows, width, vocabulary)
    flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    return flat.view_as(wanted), wanted
