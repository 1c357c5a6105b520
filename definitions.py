"""The Dagster definitions of the project: its functions, schedules, assets and resources."""

import sensors
from assets import analytics
from assets import sync as sync_assets
from assets.maintenance import system_report
from pipelines import maintenance
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
from runyard import definitions
from schedules import analytics as analytics_schedules
from schedules import maintenance as maintenance_schedules
from schedules import sync as sync_schedules

defs = definitions(
    sensors,
    jobs=maintenance.jobs,
    schedules=[
        *maintenance_schedules.schedules,
        *analytics_schedules.schedules,
        *sync_schedules.schedules,
    ],
    assets=[system_report, *analytics.assets, *sync_assets.assets],
    asset_checks=sync_assets.checks,
    resources={
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
