"""`runyard apps`: the applications that serve functions with Inngest's SDKs."""

import asyncio

import click

from runyard.cli.errors import reported
from runyard.cli.terminal import echo
from runyard.errors import RunyardError


@click.group()
def apps() -> None:
    """List, sync and remove applications with Inngest's SDKs."""


@apps.command("list")
@reported
def list_apps() -> None:
    """List the applications and their functions."""
    from runyard.apps import catalog

    rows = catalog.apps()
    if not rows:
        echo("No applications yet: register one with `runyard apps sync URL`.")
    for row in rows:
        state = f"  REFUSED: {row['error']}" if row["error"] else ""
        echo(f"{row['name']}  at {row['url']}  {row['sdk']}{state}")
        for warning in row["warnings"]:
            echo(f"    warning: {warning}")
        for function in row["functions"]:
            echo(f"    {function['slug']}  as {function['name']}")


@apps.command()
@click.argument("url")
@reported
def sync(url: str) -> None:
    """Let the application that serves its functions at URL register them."""
    for name in asyncio.run(_sync(url)):
        echo(f"{name} has registered.")


async def _sync(url: str) -> list[str]:
    from runyard.apps.sync import caller
    from runyard.apps.sync import sync as ask

    async with caller() as client:
        return list(await ask(url, client))


@apps.command()
@click.argument("name")
@reported
def remove(name: str) -> None:
    """Remove the application NAME. Its functions get no new runs; those under way end."""
    from runyard.apps import catalog

    if not catalog.remove(name):
        raise RunyardError(f"there is no application {name}: `runyard apps list` lists them")
    echo(f"{name} is removed. An application that still runs may register again.")
