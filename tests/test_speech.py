"""Speech: work that takes long says so at once and again; so do the bootstraps, the registration and the vocabulary."""

import time

import pytest

from stepladder import speech


def test_long_work_speaks_again_and_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(speech, "EVERY_S", 0.02)
    with speech.during("digging"):
        time.sleep(0.2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digging" and len(lines) >= 3 and lines[-1].endswith("s so far")


@pytest.mark.slow
def test_learning_a_vocabulary_lets_others_speak(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from stepladder import vocabulary

    monkeypatch.setattr(speech, "EVERY_S", 0.02)
    texts = [" ".join(str(number * step) for step in range(60)) for number in range(2000)]
    vocabulary.learn(texts, vocab_size=2000, context_length=64)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "learning a vocabulary of 2,000 tokens" and lines[-1].endswith("s so far")
