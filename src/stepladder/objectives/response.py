"""Response: a causal model writes the answer after a prompt; cross-entropy on the answer's tokens only.

For classification the answer is a label's word, and the label with the highest log-likelihood is predicted; for
generation the answer is free text, closed by the end-of-text token. In a conversation the earlier answers are learnt in
the same pass, each with the end-of-text token behind it where the prompt has one there.
"""

import numpy as np
import polars as pl
import torch
from torch import Tensor

from stepladder import conversations, generation, tokens
from stepladder.errors import ConfigError
from stepladder.objectives import IGNORED, classified, positions
from stepladder.prompts import Prompt


class Objective:
    """Next-token loss on answers; `labels` is None where the answer is free text."""

    tasks = ("classification", "generation")
    continued = True  # the answer's tokens follow the prompt's in one row

    def __init__(
        self, tokenizer, *, task: str, labels: list[str] | None, max_length: int, prompt: Prompt, decoding, **_unused
    ):
        self.task, self.tokenizer, self.labels, self.max_length = task, tokenizer, labels, max_length
        self.prompt, self.decoding = prompt, decoding or {}
        self.label_ids = [self._label_ids(label) for label in labels or []]
        self.prefix = None  # a shared prompt prefix, set by `share`

    def encode(self, records: pl.DataFrame, *, train: bool) -> list[dict]:
        """Return one example a record; an input that leaves no room for an answer is cut at its end, the prompt never.

        What a text is cut to never depends on its target.
        """
        prompts = tokens.encode(self.tokenizer, [self.prompt.question(text) for text in records["input"]])
        if self.labels is None:
            labels, answers = [IGNORED] * len(records), [self._written_ids(target) for target in records["target"]]
        else:
            labels = positions(records, self.labels)
            answers = [[] if label == IGNORED else self.label_ids[label] for label in labels]
        room = self._room()
        examples = []
        for row, (ids, text, answer) in enumerate(zip(prompts, records["input"], answers, strict=True)):
            cut, earlier = len(ids) > room, []
            if self.prompt.turns:
                ids, earlier = self._conversed(text, room)
            ids = self._cut(text, len(ids) - room, room) if len(ids) > room else ids
            example = {"ids": ids, "answer": answer, "label": labels[row], "row": row, "length": len(ids), "cut": cut}
            examples.append(example | {"earlier": earlier})
        return examples

    def collate(self, examples: list[dict]) -> dict[str, Tensor | list]:
        """Return prompts padded on the left, answers as lists, labels and row (rows)."""
        return {
            **generation.left_pad([e["ids"] for e in examples], self.tokenizer.pad_token_id),
            "answers": [e["answer"] for e in examples],
            "earlier": [e.get("earlier", []) for e in examples],
            "labels": torch.tensor([e["label"] for e in examples]),
            "row": torch.tensor([e["row"] for e in examples]),
        }

    def loss(self, model, batch: dict) -> Tensor:
        """Return the mean negative log-likelihood of all answers' tokens, in nats a token."""
        losses, counts = self._token_losses(model, batch)
        return losses.sum() / counts.sum()

    def count(self, batch: dict) -> int:
        """Return how many tokens the loss is a mean of."""
        return sum(map(len, batch["answers"])) + sum(map(len, batch.get("earlier", ())))

    def losses(self, model, batch: dict) -> list[dict]:
        """Return for each row the nats and the number of its answer's tokens, without writing anything."""
        losses, counts = self._token_losses(model, batch)
        rows = zip(batch["row"].tolist(), losses.tolist(), counts.tolist(), strict=True)
        return [{"row": row, "loss": loss, "tokens": count} for row, loss, count in rows]

    def share(self, model, examples: list[dict]) -> None:
        """Compute the prefix that all prompts share once, for the scoring that follows; call it with no gradient."""
        if self.labels is not None:
            self.prefix = generation.Prefix(model, [example["ids"] for example in examples])

    def answer(self, model, batch: dict) -> list[dict]:
        """Return for each row the labels' log-likelihoods, or the text that the model writes, and the row's loss."""
        if self.labels is None:
            return self._written(model, batch)
        scores = self._scores(model, batch)
        rows = zip(batch["row"].tolist(), scores.cpu().numpy(), batch["labels"].tolist(), batch["answers"], strict=True)
        return [
            {"row": row, "scores": score, "loss": -float(score[label]) if answer else 0.0, "tokens": len(answer)}
            for row, score, label, answer in rows
        ]

    def predictions(self, records: pl.DataFrame, rows: list[dict]) -> pl.DataFrame:
        """Return the predictions of `records` in their order."""
        ordered = sorted(rows, key=lambda row: row["row"])
        if self.labels is not None:
            scores = np.stack([row["scores"] for row in ordered]).astype(np.float64)  # (rows, labels)
            leaning = np.array([self.prompt.prior.get(label, 0.0) for label in self.labels])
            return classified(records, scores - leaning, self.labels)
        answers = pl.Series("answer", [row["text"] for row in ordered], dtype=pl.String)
        return records.select("id", "source", "target").with_columns(answers)

    def _room(self) -> int:
        """Return how many tokens a prompt may have."""
        return self.max_length - max(map(len, self.label_ids), default=self.decoding.get("max_new_tokens", 0))

    def _scores(self, model, batch: dict) -> Tensor:
        """Return (rows, labels), the log-likelihood of each label."""
        return generation.label_scores(model, self._after_prefix(batch), self.label_ids, self.prefix)

    def _answer_ids(self, target: str) -> list[int]:
        return self.tokenizer(self.prompt.answer(target), add_special_tokens=False)["input_ids"]

    def _label_ids(self, label: str) -> list[int]:
        ids, question = self._answer_ids(label), self.prompt.question("x")
        whole = self.tokenizer(question + self.prompt.answer(label))["input_ids"]
        if whole != self.tokenizer(question)["input_ids"] + ids:
            raise ConfigError(f"prompt.template: its end and the answer {label!r} melt into one token; end it with ':'")
        return ids

    def _written_ids(self, target: str | None) -> list[int]:
        return [*([] if target is None else self._answer_ids(target)), self.tokenizer.eos_token_id]

    def _cut(self, text: str, surplus: int, room: int) -> list[int]:
        """Return the prompt of `text` without its last `surplus` tokens, or more until it has at most `room` tokens.

        Of a conversation the last question is cut.
        """
        talk = conversations.read(text) if self.prompt.turns else None
        text = talk.last if talk else text
        places = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        for start, _ in reversed(places[: len(places) - surplus + 1]):
            cut = self.prompt.conversed(talk.asking(text[:start])) if talk else self.prompt.question(text[:start])
            ids = self.tokenizer(cut)["input_ids"]
            if len(ids) <= room:
                return ids
        raise ConfigError(f"trainer.max_length={self.max_length} is shorter than the prompt without its input")

    def _conversed(self, text: str, room: int) -> tuple[list[int], list[int]]:
        """Return the prompt of a conversation and the places of its earlier answers' tokens; without its first turns,
        as many as leave it no room, though the last question stays."""
        conversation = conversations.read(text)
        for number in range(len(conversation.turns), -1, -1):
            recent = conversation.recent(number)
            question, end = self.prompt.conversed(recent), self.tokenizer.eos_token
            found = self.tokenizer(question, return_offsets_mapping=True, verbose=False)
            if len(found["input_ids"]) <= room or not number:
                break
        spans = self.prompt.answered(recent)
        spans = [(start, stop + len(end) * question.startswith(end, stop)) for start, stop in spans]
        offsets = [(i, start) for i, (start, stop) in enumerate(found["offset_mapping"]) if stop > start]
        return found["input_ids"], [i for i, at in offsets if any(start <= at < stop for start, stop in spans)]

    def _token_losses(self, model, batch: dict) -> tuple[Tensor, Tensor]:
        """Return per row the summed loss of its answer's tokens and their number, in one pass over prompt + answer."""
        answers, prompts = batch["answers"], _rows(batch)
        firsts = [min(places, default=len(ids)) for ids, places in zip(prompts, batch["earlier"], strict=True)]
        width = max(len(ids) - first + len(a) for ids, first, a in zip(prompts, firsts, answers, strict=True))
        whole = [ids + answer[:-1] for ids, answer in zip(prompts, answers, strict=True)]
        inputs = generation.left_pad(whole, self.tokenizer.pad_token_id)
        device = batch["input_ids"].device
        logits = generation.logits(
            model, inputs["input_ids"].to(device), inputs["attention_mask"].to(device), keep=width
        )  # (rows, width, vocabulary); a row's answer fills the last columns
        wanted = torch.full((len(answers), width), -100)
        for row, answer in enumerate(answers):
            wanted[row, width - len(answer) :] = torch.tensor(answer)
            for place in batch["earlier"][row]:
                wanted[row, width - len(answer) - len(prompts[row]) + place] = prompts[row][place]
        flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.to(device).flatten(), reduction="none")
        losses = flat.view_as(wanted)
        return losses.sum(1), (wanted != -100).sum(1).to(device)

    def _written(self, model, batch: dict) -> list[dict]:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        texts = generation.generate(model, self.tokenizer, inputs, **self.decoding)
        return [{**row, "text": text} for row, text in zip(self.losses(model, batch), texts, strict=True)]

    def _after_prefix(self, batch: dict) -> dict[str, Tensor]:
        skip = len(self.prefix.tokens) if self.prefix else 0
        if not skip:
            return batch
        shorter = generation.left_pad([ids[skip:] for ids in _rows(batch)], self.tokenizer.pad_token_id)
        return {key: value.to(batch["input_ids"].device) for key, value in shorter.items()}


def _rows(batch: dict) -> list[list[int]]:
    """Return each row's token ids without padding."""
    masks = batch["attention_mask"].bool()
    return [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], masks, strict=True)]
