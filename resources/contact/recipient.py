"""The recipient of the contact form."""

from typing import Any

from dagster import ConfigurableResource

from resources.settings import ContactSettings, EmailSettings

_EXAMPLE = "team@example.com"


class ContactRecipient(ConfigurableResource[Any]):
    """The address that contact forms are sent to; empty where none is set."""

    address: str = ""


def recipient_from_settings() -> ContactRecipient:
    """CONTACT_TO; an example address where that is not set and mail only goes into the outbox."""
    is_sending = EmailSettings.read().sendgrid_api_key is not None
    stand_in = "" if is_sending else _EXAMPLE
    return ContactRecipient(address=ContactSettings.read().contact_to or stand_in)
