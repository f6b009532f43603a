"""Serving: the registered form of any level, as an MLflow model from code: text in, answer and probabilities out.

This file travels with the model and runs without Stepladder: `mlflow.pyfunc.load_model("models:/<name>@champion")` or
`mlflow models serve`. The folder holds plain transformers files, merged and self-contained, and `stepladder.json`,
which says how the answer is read off.
"""

import contextlib
import hashlib
import json
import math
from pathlib import Path

import mlflow
import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

CLASSES = {
    "classifier": AutoModelForSequenceClassification,
    "pooled": AutoModel,
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}


class Answers(mlflow.pyfunc.PythonModel):
    """A classifier, a frozen backbone with a linear head, or a model that writes, asked for the label or a text."""

    def load_context(self, context):
        """Open the weights, the tokenizer and the description that came with this file."""
        folder = Path(context.artifacts["model"])
        _verify(folder)
        self.saved = json.loads((folder / "stepladder.json").read_text())
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.tokenizer.padding_side = "left" if self.saved["form"] == "causal" else "right"
        kind = CLASSES[self.saved["form"]]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.saved["inference"]["precision"] == "bf16-true" else torch.float32
        self.model = kind.from_pretrained(folder, local_files_only=True, dtype=dtype).eval().to(self.device)
        head = folder / "head.safetensors"
        self.head = load_file(head, device=self.device) if self.saved["form"] == "pooled" else None
        self.before = None  # what reads virtual tokens before the text
        if (folder / "adapter").is_dir():
            self._adapt(folder / "adapter")

    def _adapt(self, folder: Path):
        """Add what could not be merged; bottleneck.py and virtual.py came along as code."""
        if (folder / "bottleneck_config.json").is_file():
            import bottleneck

            self.model = bottleneck.attach(self.model, folder)[0].to(self.device)
            return
        import virtual
        from peft import PeftModel

        self.model = PeftModel.from_pretrained(self.model, folder).eval().to(self.device)
        self.before = virtual if self.saved["form"] == "causal" else None

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """Return `answer` and, where there are labels, one column of probability a label, in the order of the input.

        An answer is a label, a text, a number, or a list of labels where a record may have several. Of texts, `params`
        may say temperature (0: the likeliest token), top_k (0: all), top_p, seed of each answer, max_new_tokens.
        """
        chance = _sampling(params or {})
        texts = model_input["input"].astype(str).tolist()
        size = self.saved["inference"]["eval_batch_size"]
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        rows = {}
        with torch.inference_mode(), self._precision():
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                for row, answer in zip(batch, self._answers([texts[row] for row in batch], chance), strict=True):
                    rows[row] = answer
        return pd.DataFrame([rows[row] for row in range(len(texts))])

    def _precision(self):
        if self.saved["inference"]["precision"] == "bf16-mixed":
            return torch.autocast(self.device, torch.bfloat16)
        return contextlib.nullcontext()

    def _answers(self, texts: list[str], chance: dict) -> list[dict]:
        writes = self.saved["form"] in ("causal", "seq2seq")
        if writes and self.saved["labels"] is None:  # a text
            return [{"answer": self._written(text, **chance)} for text in texts]
        scores = self._asked(texts) if writes else self._headed(texts)
        labels = self.saved["labels"]
        if self.saved["task"] == "regression":
            return [{"answer": self._on_scale(row[0])} for row in scores.float().tolist()]
        if self.saved["task"] == "multilabel":
            return [self._several(dict(zip(labels, row, strict=True))) for row in scores.float().sigmoid().tolist()]
        prior = (self.saved["prompt"] or {}).get("prior") or {}
        leaning = torch.tensor([prior.get(label, 0.0) for label in labels], device=scores.device)
        shares = (scores.float() - leaning).softmax(-1).tolist()  # (rows, labels)
        return [{"answer": labels[row.index(max(row))], **dict(zip(labels, row, strict=True))} for row in shares]

    def _several(self, shares: dict[str, float]) -> dict:
        return {"answer": sorted(k for k, v in shares.items() if v >= self.saved["reading"]["threshold"]), **shares}

    def _on_scale(self, value: float) -> float:
        scale = self.saved["reading"]["scale"]
        if scale and scale["step"]:
            value = scale["low"] + scale["step"] * math.floor((value - scale["low"]) / scale["step"] + 0.5)
        return min(max(value, scale["low"]), scale["high"]) if scale else value

    def _headed(self, texts: list[str]) -> torch.Tensor:
        limit = self.saved["inference"]["max_length"]
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        batch = batch.to(self.device)
        if self.head is None:
            return self.model(**batch).logits
        hidden = self.model(**batch).last_hidden_state  # (rows, tokens, width)
        mask = batch["attention_mask"][..., None]
        return (hidden * mask).sum(1) / mask.sum(1) @ self.head["weight"].T + self.head["bias"]

    def _asked(self, texts: list[str]) -> torch.Tensor:
        columns, answers = [], [self._answer(label) for label in self.saved["labels"]]
        labels = self.tokenizer(answers, add_special_tokens=False)["input_ids"]
        prompts = [self._prompt(text, max(map(len, labels))) for text in texts]
        for words in labels:
            if self.saved["form"] == "seq2seq":
                columns.append(self._decoded(prompts, words))
                continue
            rows = {"input_ids": [ids + words[:-1] for ids in prompts]}
            batch = self.tokenizer.pad(rows, return_tensors="pt").to(self.device)
            model, read = self.model, dict(batch)
            if self.before:
                model, read = model.get_base_model(), self.before.before(model, **batch)
            width = read.get("inputs_embeds", batch["input_ids"]).shape[1]
            positions = (read["attention_mask"].cumsum(1) - 1).clamp(min=0)[:, -width:]
            keep = {"position_ids": positions, "logits_to_keep": len(words), "use_cache": False}
            steps = model(**read, **keep).logits.float().log_softmax(-1)  # (rows, words, vocabulary)
            wanted = torch.tensor(words, device=self.device).expand(len(prompts), -1)[..., None]
            columns.append(steps.gather(-1, wanted).sum((1, 2)))
        return torch.stack(columns, dim=1)

    def _decoded(self, prompts: list[list[int]], words: list[int]) -> torch.Tensor:
        batch = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.device)
        wanted = torch.tensor(words, device=self.device).expand(len(prompts), -1)
        steps = self.model(**batch, labels=wanted, use_cache=False).logits.float().log_softmax(-1)
        return steps.gather(-1, wanted[..., None]).sum((1, 2))

    def _written(self, text: str, *, seed: int | None = None, **chance) -> str:
        decoding = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        decoding |= self.saved["decoding"] | chance
        if seed is not None:
            torch.manual_seed(seed)  # of each answer, so that none depends on those before it
        ids = {"input_ids": [self._prompt(text, decoding["max_new_tokens"])]}
        batch = self.tokenizer.pad(ids, return_tensors="pt").to(self.device)
        one_line = decoding.pop("one_line")
        end = {"stop_strings": ["\n"], "tokenizer": self.tokenizer} if one_line else {}
        options = {**decoding, **end, "pad_token_id": self.tokenizer.pad_token_id}
        if self.before:
            written = self.before.generate(self.model, **batch, **options)[0]
        else:
            begin = 1 if self.saved["form"] == "seq2seq" else batch["input_ids"].shape[1]
            written = self.model.generate(**batch, **options)[0, begin:]
        said = self.tokenizer.decode(written, skip_special_tokens=True).strip()
        return said.split("\n")[0].strip() if one_line else said

    def _prompt(self, text: str, spare: int) -> list[int]:
        """Return the tokens of a question, its input cut at the end where `spare` more tokens would be too many."""
        room = self.saved["inference"]["max_length"] - (0 if self.saved["form"] == "seq2seq" else spare)
        system, turns = None, ()
        if self.saved["prompt"].get("turns"):
            import conversations

            talk = conversations.read(text)
            system, turns, text = talk.system, talk.turns, talk.last
        ids = self.tokenizer(self._question(text, system, turns))["input_ids"]
        while len(ids) > room and turns:
            turns = turns[1:]
            ids = self.tokenizer(self._question(text, system, turns))["input_ids"]
        if len(ids) <= room:
            return ids
        places = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        cuts = (text[:start] for start, _ in reversed(places[: len(places) - (len(ids) - room) + 1]))
        shorter = (self.tokenizer(self._question(cut, system, turns))["input_ids"] for cut in cuts)
        return next(ids for ids in shorter if len(ids) <= room)

    def _question(self, text: str, system: str | None, turns: tuple) -> str:
        prompt = self.saved["prompt"]
        told, head = prompt["instruction"].format(labels=", ".join(prompt["words"].values())), prompt["head"]
        if system is not None and prompt["lead"]:
            told = system
        elif system is not None and prompt["system"]:
            head = system.join(prompt["system"])
        elif system is not None:
            raise ValueError("a conversation has a message of the system, which this chat template does not take")
        shots = [self._filled(shown) + self._answer(target) for shown, target in [*prompt["shots"], *turns]]
        return head + prompt["separator"].join([*([told] if told else []), *shots, self._filled(text)])

    def _answer(self, target: str) -> str:
        return self.saved["prompt"]["lead"] + self.saved["prompt"]["words"].get(target, target)

    def _filled(self, text: str) -> str:
        prompt = self.saved["prompt"]
        return prompt["template"].format(input=text, input_name=prompt["input_name"], answer_name=prompt["answer_name"])


def _sampling(params: dict) -> dict:
    """Return the options of transformers' generate that the parameters of a request ask for.

    Raises ValueError for a value out of its range.
    """
    ranges = {"temperature": (0, 100), "top_k": (0, 10**6), "top_p": (0, 1), "max_new_tokens": (1, 8192)}
    for name, (least, most) in ranges.items():
        if name in params and not least <= params[name] <= most:
            raise ValueError(f"params.{name}: {params[name]} is not allowed; expected {least} to {most}")
    chosen = {"max_new_tokens": params["max_new_tokens"]} if "max_new_tokens" in params else {}
    if not params.get("temperature"):
        return chosen
    chance = {"temperature": params["temperature"], "top_k": params.get("top_k", 0), "top_p": params.get("top_p", 1.0)}
    return chosen | chance | {"do_sample": True, "num_beams": 1, "seed": params.get("seed", 0)}


def _verify(folder: Path) -> None:
    """Raise ValueError that names the first file whose bytes are not those that were registered, and both hashes."""
    for name, expected in json.loads((folder / "manifest.json").read_text())["files"].items():
        file = folder / name
        found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no file"
        if found != expected:
            raise ValueError(f"{file}: expected sha256 {expected}, found {found}")


mlflow.models.set_model(Answers())
