"""A small server for requests that steps have made: an AI service, or anything else."""

from typing import Any

from demo.fake_server import FakeServer, Handler


class FakeService(FakeServer):
    """Answers by path, with what `answers` holds: a status, a body, and headers.

    `echo` in place of an answer repeats the request.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Any] = {}

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        answer = self.answers[request.path.partition("?")[0]]
        if answer == "echo":
            headers = dict(request.headers)
            request.answer(200, {"headers": headers, "path": request.path, "body": body.decode()})
        else:
            status, content, headers = answer
            request.answer(status, content, "text/plain", headers)

    @property
    def asked(self) -> list[tuple[str, str]]:
        """The methods and paths of the requests so far."""
        return [(method, path) for method, path, _, _ in self.requests]

    def header(self, name: str) -> str | None:
        """A header of the last request."""
        names = {key.lower(): value for key, value in self.requests[-1][2].items()}
        return names.get(name)
