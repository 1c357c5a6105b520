"""Every setting of the families, typed: a class for each family, its fields named as the variables.

`EmailSettings.read().mail_from` is MAIL_FROM. Settings are read when they are needed, so a test can
set a variable at any time; parsed values are reused until one of their variables changes. An empty
variable counts as not set. A wrong value raises `NonRetriable` where it is used and nowhere else:
a typo in a limit of media does not stop mail.

Two kinds of variables are read elsewhere: those that `config/sync.toml` names (`url_env`,
`token_env`), and the secrets in `WebhookSettings`, which a signature scheme reads by name. The
latter are listed here so that `runyard doctor --settings` shows whether they are set.
"""

import math
import os
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from runyard.errors import NonRetriable

PROJECT = Path(__file__).resolve().parents[1]
SENDGRID_HOST = "https://api.sendgrid.com"
OPENAI_HOST = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-6-luna"
GEMINI_HOST = "https://generativelanguage.googleapis.com"
GEMINI_MODEL = "gemini-3.5-flash-lite"
PROVIDERS = ("gemini", "openai", "offline")

_SECONDS_A_DAY = 86_400


class FamilySettings(BaseSettings):
    """Settings of one family, read from the environment."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)
    # What is wrong with the fields that are missing from the instance.
    _errors: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def read(cls) -> Self:
        """The settings as the environment has them now."""
        settings = _parsed(cls, tuple(os.environ.get(name.upper()) for name in cls.model_fields))
        assert isinstance(settings, cls)
        return settings

    def __getattr__(self, name: str) -> Any:
        if name in type(self).model_fields:
            raise NonRetriable(self._errors[name])
        return super().__getattr__(name)  # type: ignore[misc]  # pydantic's, of private attributes


class EmailSettings(FamilySettings):
    """Mail: the sender, SendGrid, and the local outbox that stands in for it."""

    mail_from: str = Field(
        default="Runyard <no-reply@example.com>",
        description="The sender of all mail: an address, or a name and an address.",
    )
    mail_outbox: Path | None = Field(
        default=None,
        description="The folder of the local outbox, which takes mail while SENDGRID_API_KEY is "
        "not set. Default: `outbox` in the data folder.",
    )
    mail_templates: Path = Field(
        default=PROJECT / "templates" / "email",
        description="The folder of the mail templates. Default: `templates/email` of the project.",
    )
    sendgrid_api_key: SecretStr | None = Field(
        default=None,
        description="SendGrid's API key. When it is set, mail is sent through SendGrid.",
    )
    sendgrid_api_host: str = Field(
        default=SENDGRID_HOST,
        description="The base URL of SendGrid's API.",
    )
    sendgrid_smtputf8: bool = Field(
        default=False,
        description="Whether the SendGrid account delivers to addresses that are not ASCII before "
        "the @ (RFC 6531).",
    )


class AiSettings(FamilySettings):
    """Text providers: which are on, in which order, and what a user may spend."""

    ai_providers: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["gemini", "openai"],
        description="The order in which text providers are tried, separated by commas: `gemini`, "
        "`openai`. One without a key is skipped.",
    )
    ai_timeout: float = Field(
        default=120,
        gt=0,
        lt=_SECONDS_A_DAY,
        description="Seconds to wait for the next piece of an answer; the whole answer may take "
        "ten times as long.",
    )
    ai_daily_usd: float | None = Field(
        default=None,
        ge=0,
        description="US dollars that one user may spend a day (UTC). No limit by default.",
    )
    ai_daily_tokens: float | None = Field(
        default=None,
        ge=0,
        description="Tokens, input and output together, that one user may use a day (UTC). No "
        "limit by default.",
    )
    ai_prices: Path = Field(
        default=PROJECT / "config" / "ai_prices.toml",
        description="The TOML file with the price of each model. Default: `config/ai_prices.toml` "
        "of the project.",
    )
    ai_other_price: Annotated[tuple[float, float] | None, NoDecode] = Field(
        default=None,
        description="The price of models that AI_PRICES does not list, in US dollars for a "
        "million tokens of input and of output: `0.30,2.50`. Unknown by default.",
    )
    gemini_api_key: SecretStr | None = Field(
        default=None, description="Gemini's API key; setting it switches Gemini on."
    )
    gemini_api_host: str = Field(
        default=GEMINI_HOST, description="The base URL of Gemini's REST API."
    )
    gemini_model: str = Field(
        default=GEMINI_MODEL, description="The Gemini model used where a request names none."
    )
    gemini_library: Literal["google-genai", "google-generativeai"] | None = Field(
        default=None,
        description="The Python package that calls Gemini: `google-genai` or "
        "`google-generativeai`. Default: `google-genai` where it is installed.",
    )
    openai_api_key: SecretStr | None = Field(
        default=None, description="OpenAI's API key; setting it switches OpenAI on."
    )
    openai_base_url: str | None = Field(
        default=None,
        description="The base URL of a server that speaks OpenAI's API, such as Ollama or vLLM; "
        "setting it switches the provider on even without a key. Default: OpenAI's own.",
    )
    openai_model: str = Field(
        default=OPENAI_MODEL, description="The OpenAI model used where a request names none."
    )

    @field_validator("ai_providers", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return split_names(value) if isinstance(value, str) else value

    @field_validator("ai_providers")
    @classmethod
    def _are_providers(cls, names: list[str]) -> list[str]:
        unknown = [name for name in names if name not in PROVIDERS]
        if unknown:
            raise ValueError(f"names {', '.join(unknown)}; there are: {', '.join(PROVIDERS)}")
        return names

    @field_validator("ai_other_price", mode="before")
    @classmethod
    def _two_prices(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            input_price, output_price = (float(part) for part in value.split(","))
        except ValueError:
            input_price = output_price = -1.0
        if not (0 <= input_price < math.inf and 0 <= output_price < math.inf):
            raise ValueError(
                "is not two prices, of input and of output, in US dollars for a million tokens: "
                "0.30,2.50"
            )
        return input_price, output_price


class MediaSettings(FamilySettings):
    """Images and videos: where they are kept, and the limits of the processes that decode them."""

    media_store: str | None = Field(
        default=None,
        description="Where media are kept: a folder, or a URL of S3, GCS or Azure. Default: "
        "`media` in the data folder.",
    )
    media_uploads: Path | None = Field(
        default=None,
        description="The folder in which an application leaves files for `media/...uploaded` "
        "events. Default: `uploads` in the data folder.",
    )
    media_memory_mb: int = Field(
        default=1536, gt=0, description="Memory limit of a decoding process, in megabytes."
    )
    media_timeout: float = Field(
        default=60, gt=0, description="Seconds that one task of a decoding process may take."
    )
    media_max_pixels: int = Field(
        default=64_000_000,
        gt=0,
        description="The largest image, or frame of a video, that is accepted, in pixels.",
    )
    media_processes: int = Field(
        default_factory=lambda: os.cpu_count() or 2,
        ge=1,
        description="Decoding processes for each worker process. Default: one for each core.",
    )
    media_preview_codec: Literal["vp9", "av1", "h264"] = Field(
        default="vp9", description="The codec of video previews: `vp9`, `av1` or `h264`."
    )


class SyncSettings(FamilySettings):
    """Data of other systems: the declared sources, and the working folder of the loads."""

    sync_sources: Path = Field(
        default=PROJECT / "config" / "sync.toml",
        description="The TOML file that declares the sources. Default: `config/sync.toml` of the "
        "project.",
    )
    sync_folder: Path | None = Field(
        default=None,
        description="The working folder of the loads. Default: `sync` in the data folder.",
    )


class ContactSettings(FamilySettings):
    """The contact form: who receives its messages, and how many senders get an acknowledgement."""

    contact_to: str | None = Field(
        default=None,
        description="The address that contact forms are sent to. Required once SENDGRID_API_KEY "
        "is set; until then an example address stands in.",
    )
    contact_acknowledgements: int = Field(
        default=60,
        ge=0,
        lt=10**9,
        description="Acknowledgements to senders in an hour, over all forms; 0 sends none.",
    )


class AnalyticsSettings(FamilySettings):
    """Analytics: the first day, the Parquet files, and the thresholds of the asset checks."""

    analytics_start: date = Field(
        default=date(2026, 1, 1), description="The first day (UTC) of the daily partitions."
    )
    analytics_folder: str | None = Field(
        default=None,
        description="Where the Parquet files are kept: a folder, or a URL that fsspec can open. "
        "Default: `analytics` in the data folder.",
    )
    analytics_least_success: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="The success rate below which a function fails the check `success_is_high`.",
    )
    analytics_fewest_ends: int = Field(
        default=10,
        ge=0,
        description="Functions with fewer finished invocations in a day than this are listed by "
        "`success_is_high`, but do not fail it.",
    )
    analytics_longest_wait: float = Field(
        default=300,
        ge=0,
        description="The 95th percentile of the wait, in seconds, above which a function fails "
        "the check `waits_are_short`.",
    )


class WebhookSettings(FamilySettings):
    """Secrets that sign webhooks; each may hold several, separated by commas, while one is rotated.

    The signature schemes read these variables themselves, by name.
    """

    notify_webhook_secret: SecretStr | None = Field(
        default=None,
        description="Signs the webhooks sent to users (Standard Webhooks). Without it they are "
        "not signed.",
    )
    sendgrid_webhook_public_key: SecretStr | None = Field(
        default=None,
        description="The public key that verifies SendGrid's signed event webhook.",
    )
    github_webhook_secret: SecretStr | None = Field(
        default=None, description="The secret that GitHub's webhooks are signed with."
    )
    stripe_webhook_secret: SecretStr | None = Field(
        default=None, description="The secret that Stripe's webhooks are signed with."
    )


def split_names(text: str) -> list[str]:
    """The names in a text that separates them with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def secret(value: SecretStr | None) -> str | None:
    """What a secret holds; None where it is not set."""
    return None if value is None else value.get_secret_value()


@lru_cache(maxsize=64)
def _parsed(group: type[FamilySettings], values: tuple[str | None, ...]) -> FamilySettings:
    """The settings of a group for these values of its variables, which take long to parse."""
    del values
    try:
        return group()
    except ValidationError as error:
        errors = {str(wrong["loc"][0]).lower(): _message(wrong) for wrong in error.errors()}
    fields = group.model_fields
    settings = group(
        **{name: fields[name].get_default(call_default_factory=True) for name in errors}
    )
    settings._errors = errors
    for name in errors:
        del settings.__dict__[name]
    return settings


def _message(error: ErrorDetails) -> str:
    """One line that names the variable, what is wrong with its value, and what it may be."""
    variable, value, context = str(error["loc"][0]).upper(), error["input"], error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return f"{variable} {context['error']}"
        case "literal_error":
            known = str(context["expected"]).replace("'", "").replace(" or ", ", ")
            return f"{variable} is {value!r}: it can be {known}"
        case "float_parsing" | "finite_number":
            return f"{variable} is not a number: {value}"
        case "int_parsing" | "int_from_float":
            return f"{variable} is not a whole number: {value}"
        case "bool_parsing":
            return f"{variable} is {value!r}: it can be 1 or 0"
        case "date_from_datetime_parsing" | "date_parsing":
            return f"{variable} is not a date: {value}; write it as 2026-01-31"
        case _:
            requirement = error["msg"].removeprefix("Input should be ")
            return f"{variable} is {value}, but should be {requirement}"
