from shop import charge_card, mailbox, send_mail

from runyard import Concurrency, Item, Retry, Run, definitions, function, step


@step
def charge(item: Item) -> str:
    return charge_card(item.data["account"], item.data["cents"])


@step
def thank(item: Item) -> None:
    send_mail(item.data["account"], f"Thank you: {charge.result(item)}")


@step
def ask(item: Item) -> None:
    send_mail(item.data["account"], "Is everything fine?")


@function(
    "payment/requested", retry=Retry(attempts=5), concurrency=Concurrency(1, key="data.account")
)
def take_payment(run: Run) -> None:
    charge(run)
    thank(run)
    run.sleep("three-days", "3d")
    ask(run)


defs = definitions(take_payment)


def test_a_customer_is_asked_after_three_days(yard):
    yard.send("payment/requested", {"account": "ada", "cents": 500})
    yard.advance("71h")
    assert mailbox == ["ada: Thank you: receipt-ada-500"]
    yard.advance("1h")
    assert mailbox[1:] == ["ada: Is everything fine?"]
