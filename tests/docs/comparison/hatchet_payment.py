from datetime import timedelta

from hatchet_sdk import (
    ConcurrencyExpression,
    ConcurrencyLimitStrategy,
    Context,
    Hatchet,
    SleepCondition,
)
from pydantic import BaseModel
from shop import charge_card, mailbox, send_mail

hatchet = Hatchet()


class Payment(BaseModel):
    account: str
    cents: int


take_payment = hatchet.workflow(
    name="take-payment",
    on_events=["payment:requested"],
    input_validator=Payment,
    concurrency=ConcurrencyExpression(
        expression="input.account",
        max_runs=1,
        limit_strategy=ConcurrencyLimitStrategy.GROUP_ROUND_ROBIN,
    ),
)


@take_payment.task(retries=4)
def charge(payment: Payment, ctx: Context) -> dict[str, str]:
    return {"receipt": charge_card(payment.account, payment.cents)}


@take_payment.task(parents=[charge], retries=4)
def thank(payment: Payment, ctx: Context) -> None:
    send_mail(payment.account, f"Thank you: {ctx.task_output(charge)['receipt']}")


@take_payment.task(parents=[thank], wait_for=[SleepCondition(timedelta(days=3))], retries=4)
def ask(payment: Payment, ctx: Context) -> None:
    send_mail(payment.account, "Is everything fine?")


def main() -> None:
    hatchet.worker("shop", workflows=[take_payment]).start()


def test_a_customer_is_asked():
    payment = Payment(account="ada", cents=500)
    receipt = charge.mock_run(payment)
    thank.mock_run(payment, parent_outputs={"charge": receipt})
    ask.mock_run(payment)
    assert mailbox == ["ada: Thank you: receipt-ada-500", "ada: Is everything fine?"]
