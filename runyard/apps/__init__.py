"""Functions that applications serve with Inngest's SDKs: registered over HTTP, and called there.

An application registers its functions (`registration`). They are functions like any other: events
start them, with flow control, retries, waits and history. Their steps run in the application: it is
called (`calls`) with what has been done so far, and answers with what to keep and what to do next
(`answers`).

The protocol is that of Inngest's SDKs for TypeScript 3 and 4, Python and Go, as read in their
sources (github.com/inngest). Names of its fields and headers are theirs.
"""
