"""Conversions: lay fetched weights out once as a plain safetensors folder in the store, converted where needed.

`python -m pipelines.fetch model=minilm` prints the folder, e.g. state/store/models/minilm-3f0c9d1b2a44.
"""

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from stepladder import archives, assets, speech
from stepladder.errors import ConfigError, DataError, unknown
from stepladder.store import folder as store_folder
from stepladder.store import hashes, settle

if TYPE_CHECKING:
    from transformers import BertConfig, DistilBertConfig

FORMAT = 1  # raised when the layout of a finished folder changes, so that it is made anew
DISTILBERT_NAMES = {
    "encoder.layer.": "transformer.layer.",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def provide(model: dict) -> dict:
    """Fetch and lay out what a model section needs and describe it; `files` is empty where it needs nothing."""
    asset = model.get("asset")
    if not asset:
        return {"name": model["name"], "files": {}}
    folder = materialise(model["name"], asset, model.get("conversion"), store_folder())
    return assets.describe(model["name"], folder, asset)


def materialise(name: str, asset: dict, conversion: str | None, store: Path) -> Path:
    """Return the folder that `models` opens: made once, re-hashed at each call, made again when it is damaged.

    A folder from a hub or a local path that needs no conversion is returned as it lies.
    Raises what assets.fetch and archives.extract raise, and ConfigError for an unknown conversion.
    """
    convert = {None: _plain, "gguf": _gguf, "distilbert": _distilbert}.get(conversion)
    if convert is None:
        raise ConfigError(unknown("conversion", conversion, ["gguf", "distilbert"]))
    source = assets.fetch(asset, store)
    if source.is_dir() and conversion is None:
        return source
    content = hashes(source) if asset["kind"] == "local" else None
    identity = json.dumps([FORMAT, asset, conversion, content], sort_keys=True)
    folder = store / "models" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    def build(part: Path) -> None:
        with tempfile.TemporaryDirectory(dir=part.parent) as unpacked:
            convert(_unpack(source, asset, Path(unpacked)), part)

    return settle(folder, build)


def _unpack(source: Path, asset: dict, folder: Path) -> Path:
    """Return a folder with the asset's files, without the folders that all of them share."""
    if source.is_dir():
        return source
    if asset["kind"] == "local":
        (folder / source.name).symlink_to(source)
        return folder
    written = archives.extract(source, asset["members"], folder)
    return Path(os.path.commonpath([file.parent for file in written]))


def _plain(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def _gguf(source: Path, target: Path) -> None:
    """Write one GGUF file as bf16 safetensors; without GgufConfig(dequantize=True) it could not be saved again."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from stepladder.models import opening

    files = sorted(source.rglob("*.gguf"))
    if len(files) != 1:
        raise DataError(f"conversion gguf needs one .gguf file, found: {', '.join(f.name for f in files) or 'none'}")
    place = {"pretrained_model_name_or_path": files[0].parent, "gguf_file": files[0].name, "local_files_only": True}
    plain = GgufConfig(dequantize=True)
    with speech.during(f"converting {files[0].name} to safetensors, takes about 40 s"), opening(files[0]):
        with redirect_stderr(StringIO()):  # a progress bar that no setting silences
            words = AutoTokenizer.from_pretrained(**place)
            model = AutoModelForCausalLM.from_pretrained(**place, quantization_config=plain, dtype=torch.float32)
        words.pad_token = words.pad_token or words.eos_token
        model.to(torch.bfloat16).save_pretrained(target)
        words.save_pretrained(target)


def _distilbert(source: Path, target: Path) -> None:
    """Write a BERT as the DistilBERT that computes the same: token type 0 joins the positions, keys are renamed."""
    from transformers import AutoTokenizer, BertModel, DistilBertModel

    from stepladder.models import STRICT, opening, require_backbone

    with opening(source):
        names = ["input_ids", "attention_mask"]  # DistilBERT knows no token types
        words = AutoTokenizer.from_pretrained(source, local_files_only=True, model_input_names=names)
        bert, report = BertModel.from_pretrained(source, **STRICT)
    require_backbone(source, bert, report, fresh_head=True)
    model = DistilBertModel(_distilbert_config(bert.config))
    weights = {_distilbert_key(key): value for key, value in bert.state_dict().items() if not key.startswith("pooler.")}
    weights["embeddings.position_embeddings.weight"] += weights.pop("embeddings.token_type_embeddings.weight")[0]
    model.load_state_dict(weights, strict=True)
    with opening(target):
        model.save_pretrained(target)
        words.save_pretrained(target)


def _distilbert_config(bert: "BertConfig") -> "DistilBertConfig":
    from transformers import DistilBertConfig

    if bert.hidden_act != "gelu" or bert.layer_norm_eps != 1e-12:
        raise DataError("conversion distilbert needs hidden_act gelu and layer_norm_eps 1e-12, as DistilBERT has them")
    return DistilBertConfig(
        vocab_size=bert.vocab_size,
        max_position_embeddings=bert.max_position_embeddings,
        n_layers=bert.num_hidden_layers,
        n_heads=bert.num_attention_heads,
        dim=bert.hidden_size,
        hidden_dim=bert.intermediate_size,
        pad_token_id=bert.pad_token_id,
    )


def _distilbert_key(key: str) -> str:
    for ours, theirs in DISTILBERT_NAMES.items():
        key = key.replace(ours, theirs)
    return key
