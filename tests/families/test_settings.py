"""The families' settings: described, read when they are needed, and clear about wrong values."""

from pathlib import Path

import pytest

from resources.settings import (
    AiSettings,
    AnalyticsSettings,
    ContactSettings,
    EmailSettings,
    FamilySettings,
    MediaSettings,
)
from runyard.cli import configuration
from runyard.errors import NonRetriable
from runyard.settings import AppSettings


def test_a_variable_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EmailSettings.read().mail_from == "Runyard <no-reply@example.com>"
    monkeypatch.setenv("MAIL_FROM", "Acme <mail@acme.example>")
    assert EmailSettings.read().mail_from == "Acme <mail@acme.example>"


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SENDGRID_API_KEY", "AI_TIMEOUT", "AI_PROVIDERS", "CONTACT_TO"):
        monkeypatch.setenv(name, "")
    assert EmailSettings.read().sendgrid_api_key is None
    assert AiSettings.read().ai_timeout == 120
    assert AiSettings.read().ai_providers == ["gemini", "openai"]
    assert ContactSettings.read().contact_to is None


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_PROVIDERS", "openai, gemini,")
    monkeypatch.setenv("AI_OTHER_PRICE", "0.30,2.50")
    monkeypatch.setenv("RUNYARD_ALLOWED_HOSTS", "files.internal, localhost:8080")
    assert AiSettings.read().ai_providers == ["openai", "gemini"]
    assert AiSettings.read().ai_other_price == (0.3, 2.5)
    assert AppSettings().allowed_hosts == ["files.internal", "localhost:8080"]


@pytest.mark.parametrize(
    ("group", "variable", "value", "message"),
    [
        (AiSettings, "AI_DAILY_USD", "five", "AI_DAILY_USD is not a number: five"),
        (AiSettings, "AI_DAILY_USD", "-1", "AI_DAILY_USD is -1, but should be greater than"),
        (AiSettings, "AI_TIMEOUT", "0", "AI_TIMEOUT is 0, but should be greater than 0"),
        (AiSettings, "AI_PROVIDERS", "nobody", "AI_PROVIDERS names nobody; there are: gemini, o"),
        (AiSettings, "AI_OTHER_PRICE", "1", "AI_OTHER_PRICE is not two prices"),
        (
            AiSettings,
            "GEMINI_LIBRARY",
            "palm",
            "GEMINI_LIBRARY is 'palm': it can be google-genai, ",
        ),
        (MediaSettings, "MEDIA_MEMORY_MB", "1.5", "MEDIA_MEMORY_MB is not a whole number: 1.5"),
        (MediaSettings, "MEDIA_PROCESSES", "0", "MEDIA_PROCESSES is 0, but should be greater"),
        (EmailSettings, "SENDGRID_SMTPUTF8", "maybe", "SENDGRID_SMTPUTF8 is 'maybe': it can be 1"),
        (
            AnalyticsSettings,
            "ANALYTICS_START",
            "soon",
            "ANALYTICS_START is not a date: soon; write",
        ),
        (AnalyticsSettings, "ANALYTICS_LEAST_SUCCESS", "2", "ANALYTICS_LEAST_SUCCESS is 2, but sh"),
    ],
)
def test_a_wrong_value_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    group: type[FamilySettings],
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(NonRetriable) as raised:
        getattr(group.read(), variable.lower())
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_doctor_shows_values_and_hides_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "a-secret")
    monkeypatch.setenv("MAIL_OUTBOX", str(tmp_path))
    monkeypatch.setenv("MEDIA_TIMEOUT", "long")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://ada:secret@models.internal/v1")
    shown = dict(configuration.values())
    assert shown["GEMINI_API_KEY"] == "**********"
    assert shown["MAIL_OUTBOX"] == str(tmp_path)
    assert shown["OPENAI_BASE_URL"] == "http://***@models.internal/v1"
    assert shown["SENDGRID_API_KEY"] == "not set"
    assert shown["AI_PROVIDERS"] == "gemini, openai"
    assert shown["MediaSettings"].startswith("MEDIA_TIMEOUT: ")


def test_a_wrong_value_does_not_affect_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_TIMEOUT", "long")
    monkeypatch.setenv("MEDIA_MAX_PIXELS", "1000")
    assert MediaSettings.read().media_max_pixels == 1000
