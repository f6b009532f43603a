"""Batches and vocabulary: rows of like length together, by seed and epoch alone; any text survives a tokenizer."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

CHANCE = random.Random(4)
LENGTHS = [CHANCE.randint(3, 120) for _ in range(203)]


def batches(lengths: list[int], size: int, *, seed: int = 1, epoch: int = 0) -> list[list[int]]:
    from stepladder.batches import Batches

    sampler = Batches(lengths, size, seed=seed)
    sampler.epoch = epoch
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_batches_are_a_pure_function_of_seed_and_epoch():
    first = batches(LENGTHS, 8)
    assert first == batches(LENGTHS, 8)
    assert first != batches(LENGTHS, 8, epoch=1)
    assert first != batches(LENGTHS, 8, seed=2)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 3))
def test_every_row_comes_exactly_once_an_epoch(lengths, size, epoch):
    found = batches(lengths, size, epoch=epoch)
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    assert max(map(len, found)) <= size


def test_batches_are_filled_better_than_random_ones():
    def filled(order: list[list[int]]) -> float:
        return sum(LENGTHS) / sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in order)

    rows = list(range(len(LENGTHS)))
    random.Random(0).shuffle(rows)
    assert filled(batches(LENGTHS, 8)) > 0.9
    assert filled([rows[i : i + 8] for i in range(0, len(rows), 8)]) < 0.65


@pytest.fixture(scope="module")
def learned(reviews):
    from stepladder import vocabulary

    return vocabulary.learn(reviews["input"], vocab_size=300, context_length=64)


@pytest.mark.capability(17)
@settings(deadline=None, max_examples=60)
@given(text=st.text(st.sampled_from("ab é\u2028\x85\x1c\r\n\"\\\t\u00a0ß漢😀'")))
def test_any_text_survives_encoding_and_decoding(learned, text):
    assert learned.decode(learned(text)["input_ids"]) == text


@pytest.mark.capability(17)
def test_a_vocabulary_has_at_most_the_asked_size_and_one_token_begins_ends_and_pads(learned, reviews):
    from stepladder import vocabulary

    assert 257 < len(learned) <= 300
    assert learned.bos_token_id == learned.eos_token_id == learned.pad_token_id == 0
    again = vocabulary.learn(reviews["input"], vocab_size=300, context_length=64)
    assert again.get_vocab() == learned.get_vocab()
