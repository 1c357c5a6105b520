from datetime import UTC, datetime, timedelta

from procrastinate import App, PsycopgConnector, RetryStrategy
from procrastinate.testing import InMemoryConnector
from shop import charge_card, mailbox, send_mail

app = App(connector=PsycopgConnector())
retry = RetryStrategy(max_attempts=5, exponential_wait=4)


@app.task(retry=retry)
def charge(account: str, cents: int) -> None:
    receipt = charge_card(account, cents)
    thank.configure(lock=account).defer(account=account, receipt=receipt)


@app.task(retry=retry)
def thank(account: str, receipt: str) -> None:
    send_mail(account, f"Thank you: {receipt}")
    ask.configure(schedule_in={"days": 3}).defer(account=account)


@app.task(retry=retry)
def ask(account: str) -> None:
    send_mail(account, "Is everything fine?")


def request_payment(account: str, cents: int) -> None:
    charge.configure(lock=account).defer(account=account, cents=cents)


def test_a_customer_is_asked_after_three_days():
    with app.replace_connector(InMemoryConnector()) as testing:
        request_payment("ada", 500)
        testing.run_worker(wait=False, install_signal_handlers=False, listen_notify=False)
        assert mailbox == ["ada: Thank you: receipt-ada-500"]
        [asking] = testing.job_manager.list_jobs(task=ask.name)
        assert asking.scheduled_at > datetime.now(UTC) + timedelta(days=2, hours=23)
        ask.func(**asking.task_kwargs)
        assert mailbox[1:] == ["ada: Is everything fine?"]
