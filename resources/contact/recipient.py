"""Who on our side is written to."""

import os
from typing import Any

from dagster import ConfigurableResource


class Staff(ConfigurableResource[Any]):
    """The address that contact forms go to; empty where none is set."""

    address: str = ""


def staff_from_environment() -> Staff:
    """CONTACT_TO; without it and without SendGrid, where mails go nowhere, an example."""
    return Staff(
        address=os.environ.get("CONTACT_TO")
        or ("" if os.environ.get("SENDGRID_API_KEY") else "team@example.com")
    )
