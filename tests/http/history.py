"""What functions have done, without a worker, and all pages of what the API says of it."""

import json
from typing import Any

from runyard.engine import batch_claims, batch_leases, checkpoints, settlement
from runyard.engine.settlement import Outcome
from runyard.functions.registry import Function
from tests.web_process import WebProcess


def run_through(function: Function, *, error: str | None = None, run: str = "run-1") -> list[int]:
    """Run everything due of a function, as a worker would; return the invocations."""
    done: list[int] = []
    for claim in batch_claims.claim(function) or []:
        begun = batch_leases.begin(claim.batch_id, run)
        assert begun is not None
        ids = [row["id"] for row in begun[1]]
        checkpoints.save_steps(
            claim.batch_id,
            run,
            "say-hello",
            [(one, 1, '{"said": "hello"}', None, 1.0, 2.0) for one in ids],
        )
        failure = {
            "step": "say-hello",
            "type": "ValueError",
            "message": error,
            "traceback": "line 1",
        }
        settlement.settle(
            claim.batch_id,
            run,
            [
                Outcome(
                    one,
                    "failed" if error else "succeeded",
                    output=None if error else '{"ok": true}',
                    error=json.dumps(failure) if error else None,
                )
                for one in ids
            ],
        )
        done += ids
    return done


def walk(web: WebProcess, path: str, rows: str) -> list[Any]:
    """All rows of all pages."""
    found: list[Any] = []
    cursor = ""
    while True:
        page = web.get(f"{path}{'&' if '?' in path else '?'}limit=7{cursor}").json()
        found += page[rows]
        if page["cursor"] is None:
            return found
        assert len(page[rows]) == 7
        cursor = f"&cursor={page['cursor']}"
