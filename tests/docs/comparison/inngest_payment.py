import asyncio
from datetime import timedelta

import inngest
from inngest.connect import connect
from inngest.experimental import mocked
from shop import charge_card, mailbox, send_mail

client = inngest.Inngest(app_id="shop")


@client.create_function(
    fn_id="take-payment",
    trigger=inngest.TriggerEvent(event="payment/requested"),
    retries=4,
    concurrency=[inngest.Concurrency(limit=1, key="event.data.account")],
)
def take_payment(ctx: inngest.ContextSync) -> None:
    account, cents = str(ctx.event.data["account"]), int(ctx.event.data["cents"])
    receipt = ctx.step.run("charge", charge_card, account, cents)
    ctx.step.run("thank", send_mail, account, f"Thank you: {receipt}")
    ctx.step.sleep("three-days", timedelta(days=3))
    ctx.step.run("ask", send_mail, account, "Is everything fine?")


def main() -> None:
    asyncio.run(connect([(client, [take_payment])]).start())


def test_a_customer_is_asked():
    event = inngest.Event(name="payment/requested", data={"account": "ada", "cents": 500})
    result = mocked.trigger(take_payment, event, mocked.Inngest(app_id="shop"))
    assert result.status is mocked.Status.COMPLETED
    assert mailbox == ["ada: Thank you: receipt-ada-500", "ada: Is everything fine?"]
