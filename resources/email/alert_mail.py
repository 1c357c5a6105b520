"""Sends alerts by mail, for RUNYARD_ALERTS=mailto:...: through SendGrid, or into the outbox."""

import uuid

from resources.email.mailer import Mail, mailer_from_settings


def send(to: str, subject: str, text: str) -> None:
    """Send a mail; raises what the mailer raises."""
    mail = Mail(id=f"alert-{uuid.uuid4()}", to=[to], subject=subject, text=text)
    mailer_from_settings().process_config_and_initialize().send(mail)
