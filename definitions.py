"""The Dagster definitions of the project: its jobs, sensors, schedules, assets and resources."""

from dagster import Definitions

from assets import analytics
from assets import sync as sync_assets
from assets.maintenance import system_report
from pipelines import contact, content, email, maintenance, media, notifications, sync, text
from pipelines import events as events  # the catalog of event types
from resources.ai.providers import Providers
from resources.ai.tables import Contents
from resources.analytics.tables import RollupTables
from resources.contact.recipient import recipient_from_settings
from resources.contact.tables import ContactMessages
from resources.email.mailer import mailer_from_settings
from resources.email.tables import EmailMessages
from resources.media.store import MediaStore
from resources.media.tables import Media
from resources.notifications.tables import Notifications
from resources.notifications.webhook_sender import WebhookSender
from resources.sync.tables import Syncs
from runyard import BatchIOManager
from runyard.dagster_adapter import builtin
from schedules import analytics as analytics_schedules
from schedules import maintenance as maintenance_schedules
from schedules import sync as sync_schedules
from sensors.contact import notify_contact_sensor
from sensors.content import generate_content_sensor
from sensors.email import send_email_sensor
from sensors.media import process_image_sensor, process_video_sensor
from sensors.notifications import notify_user_sensor, send_digest_sensor, welcome_user_sensor
from sensors.sync import sync_source_sensor
from sensors.text import generate_text_sensor

defs = Definitions(
    jobs=[
        email.send_email,
        contact.notify_contact,
        text.generate_text,
        content.generate_content,
        media.process_image,
        media.process_video,
        notifications.notify_user,
        notifications.send_digest,
        notifications.welcome_user,
        sync.sync_source,
        *maintenance.jobs,
        *builtin.jobs,
    ],
    sensors=[
        send_email_sensor,
        notify_contact_sensor,
        generate_text_sensor,
        generate_content_sensor,
        process_image_sensor,
        process_video_sensor,
        notify_user_sensor,
        send_digest_sensor,
        welcome_user_sensor,
        sync_source_sensor,
        *builtin.sensors,
    ],
    schedules=[
        *maintenance_schedules.schedules,
        *analytics_schedules.schedules,
        *sync_schedules.schedules,
    ],
    assets=[system_report, *analytics.assets, *sync_assets.assets],
    asset_checks=sync_assets.checks,
    resources={
        "io_manager": BatchIOManager(),
        "mailer": mailer_from_settings(),
        "messages": EmailMessages(),
        "contact_recipient": recipient_from_settings(),
        "providers": Providers(),
        "contents": Contents(),
        "contact_messages": ContactMessages(),
        "notifications": Notifications(),
        "webhooks": WebhookSender(),
        "store": MediaStore(),
        "media": Media(),
        "rollup_tables": RollupTables(),
        "syncs": Syncs(),
    },
)
