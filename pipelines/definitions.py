"""The one place where everything is put together for Dagster."""

from dagster import Definitions

from pipelines import events as events  # the catalog of event types
from pipelines.contact import notify_contact
from pipelines.content import generate_content
from pipelines.email import send_email
from pipelines.notifications import notify_user, send_digest, welcome_user
from pipelines.text import generate_text
from resources.contact_messages import ContactMessages
from resources.content import Contents
from resources.email_messages import EmailMessages
from resources.mailer import mailer_from_environment
from resources.notifications import Notifications
from resources.providers import Providers
from resources.staff import staff_from_environment
from resources.webhook_sender import WebhookSender
from runyard import BatchIOManager, operations
from sensors.contact import notify_contact_sensor
from sensors.content import generate_content_sensor
from sensors.email import send_email_sensor
from sensors.notifications import notify_user_sensor, send_digest_sensor, welcome_user_sensor
from sensors.text import generate_text_sensor

defs = Definitions(
    jobs=[send_email, notify_contact, generate_text, generate_content, notify_user, send_digest, welcome_user, *operations.jobs],
    sensors=[
        send_email_sensor,
        notify_contact_sensor,
        generate_text_sensor,
        generate_content_sensor,
        notify_user_sensor,
        send_digest_sensor,
        welcome_user_sensor,
        *operations.sensors,
    ],
    resources={
        "io_manager": BatchIOManager(),
        "mailer": mailer_from_environment(),
        "messages": EmailMessages(),
        "staff": staff_from_environment(),
        "providers": Providers(),
        "contents": Contents(),
        "contact_messages": ContactMessages(),
        "notifications": Notifications(),
        "webhooks": WebhookSender(),
    },
)
