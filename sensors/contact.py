"""The functions of the contact form."""

from pipelines.contact import notify_contact
from runyard import on_event

notify_contact_sensor = on_event("contact/submitted", job=notify_contact)
