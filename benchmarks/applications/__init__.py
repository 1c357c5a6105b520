"""Functions that an application in Node serves with Inngest's SDK, on the same machine."""
