"""Elsewhere: saved folders asked by transformers and peft alone, in a process that cannot import stepladder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

OPEN = """
import sys
sys.modules["stepladder"] = None  # opened without it
import json, torch
from pathlib import Path
from transformers import (
    AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer,
    BitsAndBytesConfig,
)
from safetensors.torch import load_file
texts, jobs, found = *json.loads(sys.argv[1]), {}
for name, folder in jobs.items():
    folder = Path(folder)
    said = json.loads((folder / "stepladder.json").read_text())
    base = said["base"] or folder
    options = {"dtype": torch.float32}
    if said["form"] == "classifier":
        options["num_labels"] = len(said["labels"])
    if said["quantization"]:
        options["quantization_config"] = BitsAndBytesConfig(**said["quantization"])
    kinds = {"classifier": AutoModelForSequenceClassification, "pooled": AutoModel, "causal": AutoModelForCausalLM}
    kinds["seq2seq"] = AutoModelForSeq2SeqLM
    model = kinds[said["form"]].from_pretrained(base, **options)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if said["adapter"]:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, folder)
        model.config.pad_token_id = tokenizer.pad_token_id
    model.eval()
    rows = []
    with torch.no_grad():
        for text in texts:
            if said["form"] in ("causal", "seq2seq"):
                prompt = said["prompt"]
                asked = tokenizer(prompt["template"].format(input=text, **prompt), return_tensors="pt")["input_ids"]
                scores = []
                for label in said["labels"]:
                    answer = tokenizer(" " + prompt["words"][label], return_tensors="pt")["input_ids"]
                    if said["form"] == "seq2seq":
                        begun = torch.cat([torch.tensor([[model.config.decoder_start_token_id]]), answer[:, :-1]], 1)
                        steps = model(input_ids=asked, decoder_input_ids=begun).logits.log_softmax(-1)[0]
                        scores.append(steps.gather(1, answer[0][:, None]).sum())
                        continue
                    whole = torch.cat([asked, answer], 1)
                    steps = model(whole).logits.log_softmax(-1)[0, -answer.shape[1] - 1 : -1]
                    scores.append(steps.gather(1, answer[0][:, None]).sum())
                logits = torch.stack(scores)
            elif said["form"] == "pooled":
                head = load_file(folder / "head.safetensors")
                batch = tokenizer(text, return_tensors="pt")
                hidden = model(**batch).last_hidden_state
                logits = (hidden.mean(1) @ head["weight"].T + head["bias"])[0]
            else:
                assert said["adapter"] or list(model.config.id2label.values()) == said["labels"]
                logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
            rows.append(logits.softmax(-1).tolist())
    found[name] = rows
print(json.dumps(found))
"""


def ask(folders: dict[str, Path], texts: list[str], *, root: Path | None = None) -> dict[str, np.ndarray]:
    """Return {name: probabilities (texts, labels)} in float32, one text after the other; bases are below `root`."""
    jobs = {name: str(folder) for name, folder in folders.items()}
    command = [sys.executable, "-W", "ignore", "-c", OPEN, json.dumps([texts, jobs])]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: np.array(rows) for name, rows in json.loads(done.stdout.splitlines()[-1]).items()}
