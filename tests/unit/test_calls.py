"""Calls to a host: how many of them there are at a time."""

import asyncio

from runyard.apps.calls import Caller, Guard

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Takes a moment for each answer, and notes how many calls it has had at a time."""

    def __init__(self) -> None:
        self.open = 0
        self.most = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            self.open += 1
            self.most = max(self.most, self.open)
            await asyncio.sleep(0.05)
            self.open -= 1
            writer.write(ANSWER)
        writer.close()


async def called(count: int, most: int) -> tuple[int, list[int]]:
    """Begin calls at once; return how many there were at a time, and their statuses."""
    noted = Server()
    server = await asyncio.start_server(noted.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with Caller(Guard(may_be_private=True), 30.0, most) as caller:
        answers = await asyncio.gather(*(caller.ask("GET", url, b"", {}) for _ in range(count)))
    server.close()
    return noted.most, [answer.status for answer in answers]


def test_calls_beyond_the_limit_of_a_host_wait_for_others_to_end() -> None:
    assert asyncio.run(called(8, most=3)) == (3, [200] * 8)
