"""The text of a model's answer: its reasoning is removed, in whatever pieces it arrives."""

import pytest

from resources.ai.answer_text import AnswerText

HARMONY = "<|start|>assistant<|channel|>analysis<|message|>"
THOUGHTS = [
    ("<think>quiet</think>\n\nQueues wait.", "Queues wait.", 5),
    ("<thinking>quiet</thinking>Queues wait.", "Queues wait.", 5),
    ("<reasoning>quiet</reasoning>Queues wait.", "Queues wait.", 5),
    ('<THINK type="long">quiet</THINK >Queues wait.', "Queues wait.", 5),
    ("[THINK]quiet[/THINK]Queues wait.", "Queues wait.", 5),
    ("Queues <think>quiet</think>wait.", "Queues wait.", 5),
    ("<think>a<think>b</think>c</think>Queues wait.", "Queues wait.", 3),
    ("<think>it says <think> a lot</think>\nQueues wait.", "\nQueues wait.", 14),
    ("quiet</think>\nQueues wait.", "Queues wait.", 5),
    ("<think>never ending", "", 12),
    ("<think/>Queues wait.", "Queues wait.", 0),
    ("Queues wait.", "Queues wait.", 0),
    (
        f"{HARMONY}quiet<|end|><|start|>assistant<|channel|>final<|message|>Queues wait.<|return|>",
        "Queues wait.",
        5,
    ),
    (f"{HARMONY}a <think> b<|end|><|start|>assistant<|message|>Queues wait.", "Queues wait.", 4),
    (f"{HARMONY}never ending", "", 12),
    ("Queues wait.<|end|>", "Queues wait.", 0),
]
TEXTS = [
    "Models write `<think>` before they answer.",
    "A tag:\n```xml\n<reasoning>because</reasoning>\n```\nThat was it.",
    "1 < 2, a <b>bold</b> [link](https://a.example) and a last <",
    "thinking </ about it",
    "It ends with `<|end|>`, and `<|channel|>` names who speaks.",
    "``",
]


def read(text: str, size: int) -> AnswerText:
    answer = AnswerText()
    pieces = [answer.take(text[at : at + size]) for at in range(0, len(text), size)]
    pieces.append(answer.finish())
    assert "".join(pieces).endswith(answer.text())
    return answer


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(("answer", "text", "thought"), THOUGHTS)
def test_reasoning_is_removed_and_counted(answer: str, text: str, thought: int, size: int) -> None:
    result = read(answer, size)
    assert result.text().strip() == text.strip()
    assert result.thought == thought


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_about_tags_is_unchanged(text: str, size: int) -> None:
    result = read(text, size)
    assert result.text() == text
    assert result.thought == 0


def test_reasoning_that_the_provider_separates_is_counted() -> None:
    answer = AnswerText()
    answer.take_thought("quiet")
    answer.take("Queues wait.")
    answer.finish()
    assert (answer.text(), answer.thought) == ("Queues wait.", 5)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_unstorable_characters_are_replaced(size: int) -> None:
    assert read("a\x00b \ud83d\ude00 \ud83d.", size).text() == "ab \U0001f600 \ufffd."


@pytest.mark.parametrize(
    "text", ["<think " * 30_000, "<" * 200_000, "`" * 200_000, "<think>" * 30_000]
)
def test_a_hostile_answer_is_read_in_linear_time(text: str) -> None:
    answer = AnswerText()
    for at in range(0, len(text), 50):
        answer.take(text[at : at + 50])
    answer.finish()
    assert len(answer.text()) + answer.thought <= len(text)
