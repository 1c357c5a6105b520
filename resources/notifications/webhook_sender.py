"""Posts webhooks to addresses of users, signed as the Standard Webhooks specification 1.0 says.

NOTIFY_WEBHOOK_SECRET signs (`whsec_` and base64, or any other text); several with commas between all sign, so that receivers can change over.
"""

import time
from typing import Any

from dagster import ConfigurableResource
from pydantic_core import to_json

from resources.safe_http import opened
from runyard.gateway.http.signatures import standard_headers

_SECONDS = 15.0


class WebhookSender(ConfigurableResource[Any]):
    """Posts JSON. The id stays the same at every attempt: a receiver knows a repeat by it."""

    def post(self, url: str, message_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Post it; return the answer's status. Raises as `resources.safe_http.opened`."""
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
