"""Generation: label scores and texts equal transformers' own, row by row, whatever the batch, padding or prefix."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PROMPTS = ["Text: a fine film\nLabel:", "Text: the plot\nLabel:", "Text: its long second act music dull\nLabel:", "x"]
SHOTS = "Text: a film\nLabel: good\n\nText: every scene of it\nLabel: bad\n\nText: wooden music\nLabel: bad\n\n"


@pytest.fixture(scope="module")
def opened(tiny):
    import torch

    from stepladder import models

    torch.set_grad_enabled(False)
    yield models.causal(tiny / "llama"), models.tokenizer(tiny / "llama")
    torch.set_grad_enabled(True)


def alone(model, prompt: list[int], label: list[int]) -> float:
    """Return the sum of the label's log-probabilities from all logits of one row without padding."""
    import torch

    logits = model(torch.tensor([prompt + label])).logits[0].double()
    steps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(sum(step[token] for step, token in zip(steps, label, strict=True)))


def padded(tokenizer, prompts: list[list[int]]):
    from stepladder import generation

    return generation.left_pad(prompts, tokenizer.pad_token_id)


LABELS = {"one token": [[5], [6], [7]], "several tokens": [[5, 9, 11], [6], [7, 8]], "equal starts": [[5, 9], [5, 11]]}


@pytest.mark.capability(1)
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_a_label_scores_the_sum_of_the_log_probabilities_of_its_tokens(opened, labels):
    from stepladder import generation

    model, tokenizer = opened
    prompts = tokenizer(PROMPTS)["input_ids"]
    wanted = [[alone(model, prompt, label) for label in labels] for prompt in prompts]
    together = generation.label_scores(model, padded(tokenizer, prompts), labels)
    singly = [generation.label_scores(model, padded(tokenizer, [prompt]), labels)[0].tolist() for prompt in prompts]
    assert together.numpy() == pytest.approx(np.array(wanted), abs=1e-5)
    assert np.array(singly) == pytest.approx(np.array(wanted), abs=1e-5)
    assert np.array(wanted).std() > 0.5  # random models that say nothing would prove nothing


def test_labels_of_one_token_score_the_same_by_the_general_route(opened):
    from stepladder import generation

    model, tokenizer = opened
    batch = padded(tokenizer, tokenizer(PROMPTS)["input_ids"])
    fast = generation.label_scores(model, batch, [[5], [6]])
    general = generation.label_scores(model, batch, [[5], [6], [7, 8]])[:, :2]
    assert fast.numpy() == pytest.approx(general.numpy(), abs=1e-5)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_a_shared_prefix_changes_no_score_also_for_prompts_of_different_lengths(opened, labels):
    from stepladder import generation

    model, tokenizer = opened
    prompts = tokenizer([SHOTS + prompt for prompt in PROMPTS[:3]])["input_ids"]
    prefix = generation.Prefix(model, prompts)
    shorter = padded(tokenizer, [prompt[len(prefix.tokens) :] for prompt in prompts])
    plain = generation.label_scores(model, padded(tokenizer, prompts), labels)
    for _ in range(2):  # the second use finds the prefix as the first left it
        shared = generation.label_scores(model, shorter, labels, prefix)
        assert shared.numpy() == pytest.approx(plain.numpy(), abs=1e-4)
    assert len(prefix.tokens) >= generation.MIN_PREFIX
    assert len({len(prompt) for prompt in prompts}) > 1


def test_prompts_that_share_little_get_no_prefix(opened):
    from stepladder import generation

    model, tokenizer = opened
    prompts = tokenizer(PROMPTS)["input_ids"]
    assert generation.Prefix(model, prompts).tokens == []
    assert generation.Prefix(model, prompts[:1]).tokens == []
    assert generation.common_prefix([[1, 2, 3], [1, 2, 3, 4], [1, 2, 9]]) == [1, 2]
    assert generation.common_prefix([[1, 2], [1, 2]]) == [1]  # something is left to run


def test_left_padding_with_position_ids_equals_no_padding(opened):
    from stepladder import generation

    model, tokenizer = opened
    ids = tokenizer(PROMPTS[0])["input_ids"]
    batch = padded(tokenizer, [ids, ids * 3])
    kept = generation.logits(model, **batch, keep=len(ids))[0]
    assert kept.numpy() == pytest.approx(whole_logits(model, ids).numpy(), abs=1e-5)


def whole_logits(model, ids: list[int]):
    import torch

    return model(torch.tensor([ids])).logits[0]


@pytest.mark.capability(1)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_generated_texts_equal_those_of_transformers_row_by_row(opened, num_beams):
    import torch

    from stepladder import generation

    model, tokenizer = opened
    prompts, length = tokenizer(PROMPTS)["input_ids"], {"max_new_tokens": 6, "num_beams": num_beams}
    first_lines, texts = (
        generation.generate(model, tokenizer, padded(tokenizer, prompts), one_line=one_line, **length)
        for one_line in (True, False)
    )
    for prompt, line, text in zip(prompts, first_lines, texts, strict=True):
        end = {"do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        output = model.generate(input_ids=torch.tensor([prompt]), **length, **end)
        whole = tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
        assert text == whole.strip()
        assert line == whole.strip().split("\n")[0].strip()
    assert any(first_lines)
