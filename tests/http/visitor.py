"""Somebody who reads the dev page, and presses its buttons."""

import re
from typing import Any, ClassVar

import httpx

from tests.web_process import WebProcess

_TOKEN = re.compile(r'name="token" value="(\w+)"')


class Visitor:
    """A browser without scripts: it keeps cookies, follows links and sends forms."""

    here: ClassVar[list["Visitor"]] = []

    def __init__(self, web: WebProcess, key: str | None = None) -> None:
        self.http = httpx.Client(base_url=web.url, timeout=30)
        self.here.append(self)
        if key is not None:
            self.log_in(web.keys[key])

    def log_in(self, key: str, **more: Any) -> httpx.Response:
        return self.post("/dev/login", page="/dev/login", key=key, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(path, **more)

    def token(self, page: str) -> str:
        found = _TOKEN.search(self.get(page).text)
        return found[1] if found else ""

    def post(
        self,
        path: str,
        page: str = "/dev/functions",
        headers: dict[str, str] | None = None,
        **fields: str,
    ) -> httpx.Response:
        """Send a form of a page, with its token unless another is given."""
        return self.http.post(
            path,
            data={"token": self.token(page), **fields},
            headers={"Origin": str(self.http.base_url), **(headers or {})},
        )
