"""What the functions of this comparison work with, the same for all: a bank, a mailbox, a table."""

from dataclasses import dataclass
from datetime import datetime

mailbox: list[str] = []
payments: list["Payment"] = []


@dataclass(frozen=True)
class Payment:
    """A row of the shop's table of payments, for a system that polls."""

    id: int
    account: str
    cents: int
    requested_at: datetime


def charge_card(account: str, cents: int) -> str:
    """Charge a card; returns the number of the receipt."""
    return f"receipt-{account}-{cents}"


def send_mail(account: str, text: str) -> None:
    """Send a mail."""
    mailbox.append(f"{account}: {text}")
