"""The one place where everything is put together for Dagster."""

from dagster import Definitions

from pipelines import events as events  # the catalog of event types
from pipelines.email import send_email
from resources.email_messages import EmailMessages
from resources.mailer import mailer_from_environment
from runyard import BatchIOManager, operations
from sensors.email import send_email_sensor

defs = Definitions(
    jobs=[send_email, *operations.jobs],
    sensors=[send_email_sensor, *operations.sensors],
    resources={"io_manager": BatchIOManager(), "mailer": mailer_from_environment(), "messages": EmailMessages()},
)
