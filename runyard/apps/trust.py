"""Whom applications and this server trust: the signing keys, and where calls may go."""

from pydantic import SecretStr

from runyard.apps.calls import Guard
from runyard.apps.signatures import SigningKey
from runyard.settings import settings


def signing_keys() -> tuple[SigningKey, ...]:
    """Return the signing keys, the one that signs first; none in development.

    Raises `InvalidOption` for a setting that is no key.
    """
    chosen = settings()
    keys = (
        _key(chosen.signing_key, "RUNYARD_SIGNING_KEY"),
        _key(chosen.signing_key_fallback, "RUNYARD_SIGNING_KEY_FALLBACK"),
    )
    return tuple(key for key in keys if key is not None)


def server_kind() -> str:
    """Return what this server is to applications: `cloud` with a signing key, else `dev`."""
    return "cloud" if signing_keys() else "dev"


def guard() -> Guard:
    """Return the guard of calls to applications, which in development may go anywhere."""
    return Guard(may_be_private=_is_development(), allowed=settings().allowed_hosts)


def may_request(host: str, port: int) -> bool:
    """Return whether a step of an application may have this host requested from here."""
    hosts = settings().gateway_hosts
    if not hosts:
        return _is_development()
    return not {"*", host, f"{host}:{port}"}.isdisjoint(hosts)


def _is_development() -> bool:
    """Without a signing key, a stack that can be reached from this machine only."""
    return settings().loopback_only and not signing_keys()


def _key(secret: SecretStr | None, variable: str) -> SigningKey | None:
    text = secret.get_secret_value() if secret is not None else ""
    return SigningKey.parse(text, variable) if text.strip() else None
