"""Posts webhooks to users' URLs, signed according to Standard Webhooks 1.0.

NOTIFY_WEBHOOK_SECRET signs them (`whsec_` and base64, or any other text). Several secrets separated
by commas all sign, so that receivers can switch from one to the next.
"""

import time
from typing import Any

from dagster import ConfigurableResource
from pydantic_core import to_json

from resources.safe_http import opened
from runyard.gateway.http.signatures import standard_headers

_SECONDS = 15.0


class WebhookSender(ConfigurableResource[Any]):
    """Posts JSON. The id is the same at every attempt, so a receiver can recognise repeats."""

    def post(self, url: str, message_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Post a body; return the answer's status. Raises as `resources.safe_http.opened`."""
        content = to_json(body)
        headers = standard_headers("NOTIFY_WEBHOOK_SECRET", message_id, int(time.time()), content)
        with opened(
            "POST",
            url,
            seconds=_SECONDS,
            content=content,
            headers={"Content-Type": "application/json", **headers},
        ) as response:
            return {
                "status": response.status_code,
                "signed": bool(headers.get("webhook-signature")),
            }
