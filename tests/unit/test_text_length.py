"""The length of a text by its script, and whether a text needs a review."""

import pytest

from resources.ai.content import remarks
from resources.ai.text_length import unit, written_length

TEXTS = {
    "en": (
        "Queues hold the work until somebody has the time to do it. Every step is kept in a table."
    ),
    "zh": "队列把工作从请求里拿出来，慢慢地做。每一个步骤都保存在数据库里，所以什么都不会丢失。",
    "ja": "待ち行列は、仕事を後で行うために保存します。データベースに全ての手順を残します。",
    "ko": (
        "대기열은 작업을 요청에서 분리하여 천천히 처리합니다. 모든 단계는 데이터베이스에 남습니다."
    ),
    "th": "คิวเก็บงานไว้จนกว่าจะมีคนทำ ทุกขั้นตอนถูกบันทึกไว้ในฐานข้อมูล",
    "ar": "تحفظ الطوابير العمل حتى يجد أحدهم الوقت. هل يضيع شيء؟ لا، كل خطوة في قاعدة البيانات.",
    "hi": "कतार काम को तब तक रखती है जब तक किसी के पास समय न हो। हर कदम डेटाबेस में रखा जाता है।",
    "ru": "Очередь хранит работу, пока у кого-нибудь не появится время. Каждый шаг записан в базе.",
    "he": "תור שומר את העבודה עד שלמישהו יש זמן. כל צעד נשמר במסד הנתונים.",
    "el": (
        "Η ουρά κρατά τη δουλειά μέχρι να έχει κάποιος χρόνο. Κάθε βήμα μένει στη βάση δεδομένων."
    ),
}


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("one two three", 3),
        ("one - two , three!", 3),
        ("don't stop-gap", 2),
        ("队列很好。", 4),
        ("待ち行列、カード", 7),
        ("使用 Dagster 和 PostgreSQL 18。", 6),
        ("Runyardは速い", 4),
        ("대기열은 좋다", 2),
        ("किताबें अच्छी हैं", 3),
        ("الكتاب جيّد", 2),
        ("ดีมาก", 4),
        ("", 0),
        ("🎉 …", 0),
    ],
)
def test_words_are_counted_where_there_are_spaces_and_else_characters(
    text: str, length: int
) -> None:
    assert written_length(text) == length


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_in_the_language_and_length_that_was_asked_for_needs_no_review(
    language: str,
) -> None:
    length = written_length(TEXTS[language])
    assert remarks([TEXTS[language]] * 2, language, 2 * length, []) == []


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_in_another_language_is_remarked(language: str) -> None:
    wanted = "de" if language == "en" else "en"
    text = f"{TEXTS[language]} {TEXTS[language]}"
    said = f"its language seems to be {language} instead of {wanted}"
    assert remarks([text], wanted, written_length(text), []) == [said]


@pytest.mark.parametrize(("language", "wanted"), [("zh", "ja"), ("ja", "zh"), ("ru", "uk")])
def test_languages_that_share_a_script_are_told_apart(language: str, wanted: str) -> None:
    text = f"{TEXTS[language]} {TEXTS[language]}"
    assert f"instead of {wanted}" in remarks([text], wanted, 40, [])[-1]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Ovo je članak o redovima čekanja. Svaki korak se čuva u bazi podataka. " * 3, "sr"),
        ("Dette er en artikkel om køer. Hvert steg blir lagret i databasen. " * 3, "nb"),
        ("Ini adalah artikel tentang antrian. Setiap langkah disimpan. " * 3, "ms"),
        (TEXTS["he"] * 3, "iw"),
        (TEXTS["en"] * 3, "ia"),
    ],
)
def test_an_undetectable_language_gets_no_remark(text: str, wanted: str) -> None:
    assert remarks([text], wanted, written_length(text), []) == []


def test_a_text_of_characters_that_is_too_short_is_remarked_in_characters() -> None:
    assert unit("ja") == "characters"
    length = written_length(TEXTS["ja"])
    said = f"it has {length} characters instead of 600"
    assert remarks([TEXTS["ja"]], "ja", 600, []) == [said]


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("It is done.", True),
        ("It is “done”", True),
        ("完了した」", True),
        ("काम पूरा हुआ।", True),
        ("انتهى؟", True),
        ("Done 🎉", True),
        ("Read more at https://a.example/queues", True),
        ("We love #queues", True),
        ("งานเสร็จแล้ว", True),
        ("It is", False),
        ("It is,", False),
        ("第一に、", False),
        ("There are three:", False),
        ("", False),
    ],
)
def test_a_section_ends_with_a_mark_of_its_script(text: str, ended: bool) -> None:
    assert ("section 1 has no end" not in remarks([text], "en", 1, [])) is ended
