"""Llama.cpp: a GGUF file writes what transformers writes; without the package or another file it is one clear line."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from stepladder import store
from stepladder.errors import ConfigError, DataError, IntegrityError, MachineError

pytestmark = pytest.mark.slow

GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 1}
PROMPTS = ["Text: a fine film\nLabel:", "Text: the plot\nLabel:", "Text: its long second act music dull\nLabel:", "xy"]
installed = pytest.mark.skipif(not importlib.util.find_spec("llama_cpp"), reason="needs stepladder[llamacpp]")


@pytest.fixture(scope="module")
def written(tiny, tmp_path_factory):
    """The tiny llama as a GGUF file in float32, by the package gguf alone."""
    import gguf
    from transformers import AutoConfig

    file, config = tmp_path_factory.mktemp("gguf") / "tiny.gguf", AutoConfig.from_pretrained(tiny / "llama")
    out = gguf.GGUFWriter(file, "llama")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    learned = json.loads((tiny / "llama" / "tokenizer.json").read_text())["model"]
    out.add_tokenizer_model("gpt2")
    out.add_token_list(sorted(learned["vocab"], key=learned["vocab"].get))
    out.add_token_merges([" ".join(pair) for pair in learned["merges"]])
    out.add_eos_token_id(0)
    for name, weight in _weights(tiny / "llama", config).items():
        out.add_tensor(name, np.ascontiguousarray(weight))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return str(file), store.sha256(file)


def _weights(folder, config) -> dict[str, np.ndarray]:
    """Return llama.cpp's names and its order of the rotary halves, as convert_hf_to_gguf.py of llama.cpp has them."""
    import gguf

    from stepladder import models

    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    found = {}
    for name, weight in models.causal(folder).state_dict().items():
        weight = weight.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        found[known.get_name(name, (".weight",))] = weight
    return found


def answers(folder, tokenizer, prompts, **decoding) -> list[str]:
    import torch

    from stepladder import generation, models

    batch = generation.left_pad(tokenizer(prompts)["input_ids"], tokenizer.pad_token_id)
    with torch.inference_mode():
        return generation.generate(models.causal(folder), tokenizer, batch, **{"max_new_tokens": 12, **decoding})


@installed
@pytest.mark.parametrize("one_line", [True, False])
def test_greedy_answers_are_those_of_transformers(one_line, tiny, written):
    from stepladder import models

    tokenizer, (gguf, sha256) = models.tokenizer(tiny / "llama"), written
    wanted = answers(tiny / "llama", tokenizer, PROMPTS, one_line=one_line, num_beams=1)
    found = answers(tiny / "llama", tokenizer, PROMPTS, one_line=one_line, gguf=gguf, sha256=sha256, **GREEDY)
    assert found == wanted and len(set(wanted)) > 2
    other = answers(tiny / "llama", tokenizer, PROMPTS[::-1], one_line=one_line, gguf=gguf, sha256=sha256, **GREEDY)
    assert other == wanted[::-1], "no answer depends on the one before"


@installed
def test_sampling_follows_its_seed_and_its_bounds(tiny, written):
    from stepladder import models

    tokenizer, (gguf, sha256) = models.tokenizer(tiny / "llama"), written
    greedy = answers(tiny / "llama", tokenizer, PROMPTS, one_line=False, num_beams=1)

    def drawn(**changes) -> list[str]:
        options = {**GREEDY, "temperature": 5.0, "gguf": gguf, "sha256": sha256, **changes}
        return answers(tiny / "llama", tokenizer, PROMPTS, one_line=False, **options)

    assert drawn() == drawn() != greedy
    assert drawn(seed=2) != drawn()
    assert drawn(top_k=1) == drawn(top_p=1e-6) == greedy
    assert drawn(temperature=1e-4) == greedy


def test_without_the_package_or_with_another_file_it_is_refused_in_one_line(tiny, written, tmp_path, monkeypatch):
    from stepladder import models

    tokenizer, (gguf, sha256) = models.tokenizer(tiny / "llama"), written
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)
    other = tmp_path / "model.safetensors"
    other.write_bytes(b"other weights")

    def refused(**changes) -> str:
        from stepladder import llamacpp

        llamacpp.opened.cache_clear()
        with pytest.raises((ConfigError, IntegrityError, MachineError)) as told:
            options = {**GREEDY, "gguf": gguf, "sha256": sha256, **changes}
            answers(tiny / "llama", tokenizer, PROMPTS, one_line=True, **options)
        assert "\n" not in str(told.value)
        return f"{told.value.code} {told.value}"

    assert refused().startswith("5 decoding=llamacpp needs the package llama-cpp-python: pip install")
    assert "not a GGUF file; take decoding: greedy" in refused(gguf=str(other), sha256=store.sha256(other))
    assert "no such file" in refused(gguf=str(tmp_path / "missing.gguf"))
    said = refused(sha256="0" * 64)
    assert said.startswith("4 ") and "0" * 64 in said and sha256 in said


@installed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # gguf and llama_cpp leave files open
def test_a_file_that_llama_cpp_does_not_open_or_of_fewer_tokens_is_refused(tiny, written, tmp_path):
    from stepladder import llamacpp, models

    tokenizer, (gguf, sha256) = models.tokenizer(tiny / "llama"), written
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(Path(gguf).read_bytes()[:999])
    with pytest.raises(ConfigError, match=r"llama\.cpp does not open it"):
        llamacpp.opened(str(torn), store.sha256(torn), threads=1)
    tokenizer.add_tokens(["one more"])
    with pytest.raises(DataError, match="has 320 tokens, the tokenizer 321"):
        llamacpp.write(tokenizer, [[1]], file=(gguf, sha256), limit=2, one_line=True, threads=1, **GREEDY)
