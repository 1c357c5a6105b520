from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import shop

retry = dg.RetryPolicy(max_retries=4, delay=15, backoff=dg.Backoff.EXPONENTIAL)


class Payment(dg.Config):
    account: str
    cents: int


@dg.op(retry_policy=retry)
def charge(config: Payment) -> str:
    return shop.charge_card(config.account, config.cents)


@dg.op(retry_policy=retry)
def thank(config: Payment, receipt: str) -> None:
    shop.send_mail(config.account, f"Thank you: {receipt}")


@dg.op(retry_policy=retry)
def ask(config: Payment) -> None:
    shop.send_mail(config.account, "Is everything fine?")


@dg.job
def take_payment() -> None:
    thank(charge())


@dg.job
def ask_customer() -> None:
    ask()


def request(payment: shop.Payment, *ops: str) -> dg.RunRequest:
    config = Payment(account=payment.account, cents=payment.cents)
    return dg.RunRequest(
        run_key=str(payment.id),
        run_config=dg.RunConfig(ops=dict.fromkeys(ops, config)),
        tags={"account": payment.account},
    )


@dg.sensor(job=take_payment)
def payment_requested(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest]:
    for payment in shop.payments:
        if payment.id > int(context.cursor or 0):
            yield request(payment, "charge", "thank")
            context.update_cursor(str(payment.id))


@dg.sensor(job=ask_customer)
def three_days_later(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest]:
    due = datetime.now(UTC) - timedelta(days=3)
    for payment in shop.payments:
        if payment.id > int(context.cursor or 0) and payment.requested_at <= due:
            yield request(payment, "ask")
            context.update_cursor(str(payment.id))


defs = dg.Definitions(
    jobs=[take_payment, ask_customer], sensors=[payment_requested, three_days_later]
)


def test_a_customer_is_asked_after_three_days():
    shop.payments.append(shop.Payment(1, "ada", 500, datetime.now(UTC) - timedelta(days=3)))
    for check, function in ((payment_requested, take_payment), (three_days_later, ask_customer)):
        [requested] = check.evaluate_tick(dg.build_sensor_context(definitions=defs)).run_requests
        assert function.execute_in_process(run_config=requested.run_config).success
    assert shop.mailbox == ["ada: Thank you: receipt-ada-500", "ada: Is everything fine?"]
