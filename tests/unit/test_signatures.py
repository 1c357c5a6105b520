"""The signature schemes that no shipped webhook uses; the others are tested over HTTP."""

import base64
import hmac
from hashlib import sha256

import pytest

from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.signatures import BodyHmac, SharedSecret, Signature

BODY = b'{"order": 7}'


def shop(secret: str) -> dict[str, str]:
    return {
        "x-shop-hmac": base64.b64encode(hmac.new(secret.encode(), BODY, sha256).digest()).decode()
    }


SCHEMES: list[tuple[Signature, dict[str, str], dict[str, str]]] = [
    (
        BodyHmac("SHOP_SECRET", header="x-shop-hmac", prefix="", encoding="base64"),
        shop("new"),
        shop("another"),
    ),
    (
        SharedSecret("SHOP_SECRET"),
        {"authorization": "Bearer new"},
        {"authorization": "Bearer another"},
    ),
    (
        SharedSecret("SHOP_SECRET", header="x-token", prefix=""),
        {"x-token": "old"},
        {"x-token": "old "},
    ),
]


@pytest.mark.parametrize(("scheme", "right", "wrong"), SCHEMES)
def test_a_scheme_takes_its_secrets_and_no_others(
    scheme: Signature, right: dict[str, str], wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SECRET", "old, new")
    scheme.check(right, BODY)
    for headers in (wrong, {}):
        with pytest.raises(HttpError, match="missing, invalid or too old") as refused:
            scheme.check(headers, BODY)
        assert refused.value.status == 401
    monkeypatch.delenv("SHOP_SECRET")
    with pytest.raises(HttpError, match="SHOP_SECRET"):
        scheme.check(right, BODY)
