"""The project's endpoints, and a webhook with Standard Webhooks signatures."""

from collections.abc import Sequence

from pipelines.http_extensions import ENDPOINTS as PROJECT
from runyard import Event
from runyard.gateway.api.extensions import Webhook, WebhookRequest
from runyard.gateway.http.signatures import StandardWebhooks


def _deals(incoming: WebhookRequest) -> Sequence[Event]:
    return [Event("crm/deal", deal) for deal in incoming.json["deals"]]


ENDPOINTS = [
    *PROJECT,
    Webhook("crm", StandardWebhooks("CRM_WEBHOOK_SECRET"), _deals, "Deals.").endpoint(),
]
