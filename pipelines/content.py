"""The content family: `content/generate.requested` -> outline -> sections -> check -> save.

Every section is a step, so a crash during the seventh costs one section. The finished text is
checked, saved, and its author is notified.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from dagster import in_process_executor, job, op

from resources.ai.content import remarks
from resources.ai.generators import Generated, Prompt
from resources.ai.outlines import SHAPE, headings
from resources.ai.prompts import render_prompt
from resources.ai.providers import Providers
from resources.ai.tables import Contents
from resources.ai.text_length import unit
from runyard import Batch, Event, Item, receive, settle

CHOOSE = "choose-provider"
OUTLINE = "outline"
CHECK = "check"
SAVE = "save"
NOTIFY = "notify"
RESULT = "result"
MOST_SECTIONS = 12
_A_SECTION = {"words": 200, "characters": 400}
# Reasoning counts against the token limit, and a section without its end is useless.
_ROOM_TO_THINK = 8_000
# Concurrent requests to providers. Each text is recorded at once, because it costs money.
_RECORDED_AT_ONCE: dict[str, Any] = {"threads": 4, "checkpoint_every": 1}


@op
def choose_provider(batch: Batch, providers: Providers) -> Batch:
    """Choose the requested provider, else the first that is on; if it is down, the next writes."""
    return batch.map(CHOOSE, lambda item: providers.candidates(item.data.provider)[0].name)


@op
def write_outline(batch: Batch, providers: Providers) -> Batch:
    """Generate the headings."""

    def write(item: Item) -> dict[str, Any]:
        item.progress(0, "writing the outline")
        data = _data(item)
        sections = min(MOST_SECTIONS, max(1, round(item.data.length / _A_SECTION[data["unit"]])))
        prompt, version = render_prompt("outline", {**data, "sections": sections})
        generated = providers.generate(_prompt(item, prompt, OUTLINE, shape=SHAPE))
        titles = headings(generated.text, MOST_SECTIONS if generated.offline else sections)
        # Without an outline the text is one section, with a remark for the editor.
        return {
            "headings": titles or [item.data.topic[:300]],
            "understood": bool(titles),
            "prompt": version,
            "generated": generated,
        }

    return batch.map(OUTLINE, write, **_RECORDED_AT_ONCE)


@op
def write_sections(batch: Batch, providers: Providers) -> Batch:
    """Generate the sections one after the other, each as its own step."""
    for number in range(1, max((_sections(item) for item in batch.active_items()), default=0) + 1):
        batch.map(
            _section(number),
            partial(_write, number=number, providers=providers),
            when=partial(_has_section, number=number),
            **_RECORDED_AT_ONCE,
        )
    return batch


@op
def check_content(batch: Batch) -> Batch:
    """Join the sections, and check the length, the language and the endings."""
    return batch.map(CHECK, _check)


@op
def save_content(batch: Batch, contents: Contents) -> Batch:
    """Save the text."""

    def save(item: Item) -> str:
        checked, data = item[CHECK], item.data
        row = {
            "id": item.key,
            "event_id": item.event.id,
            "outline": item[OUTLINE]["headings"],
            **checked,
        }
        contents.save({**row, **data.model_dump(include={"user", "topic", "kind", "language"})})
        return str(row["id"])

    return batch.map(SAVE, save)


@op
def notify_author(batch: Batch) -> Batch:
    """Notify the user, if requested."""

    def tell(item: Item) -> list[Event]:
        if not item.data.notify:
            return []
        notification = {
            "user": item.data.user,
            "kind": "content",
            "title": "Your text is ready",
            "message": f"{item.data.kind.capitalize()}: {item.data.topic[:200]}",
        }
        return [Event("notification/requested", notification)]

    batch.send_events(NOTIFY, tell)
    return batch.map(
        RESULT,
        lambda item: {
            "content": item[SAVE],
            **{key: item[CHECK][key] for key in ("status", "provider", "offline", "remarks")},
        },
    )


@job(executor_def=in_process_executor, description="Write content: content/generate.requested")
def generate_content() -> None:
    """The function's graph."""
    sections = write_sections(write_outline(choose_provider(receive())))
    settle(notify_author(save_content(check_content(sections))))


def _section(number: int) -> str:
    return f"section-{number}"


def _sections(item: Item) -> int:
    return len(item[OUTLINE]["headings"])


def _has_section(item: Item, number: int) -> bool:
    return number <= _sections(item)


def _data(item: Item) -> dict[str, Any]:
    """The data for the prompts."""
    return {**item.data.model_dump(), "unit": unit(item.data.language)}


def _prompt(item: Item, prompt: str, purpose: str, **more: Any) -> Prompt:
    data = item.data
    return Prompt(
        prompt=prompt,
        provider=item[CHOOSE],
        model=data.model,
        user=data.user,
        purpose=purpose,
        topic=data.topic,
        **more,
    )


def _write(item: Item, number: int, providers: Providers) -> dict[str, Any]:
    titles = item[OUTLINE]["headings"]
    length = max(20, item.data.length // len(titles))
    data = {"number": number, "headings": titles, "section_length": length}
    prompt, version = render_prompt("section", {**_data(item), **data})
    most = length * 4 + 200 + _ROOM_TO_THINK
    generated = providers.generate(_prompt(item, prompt, "section", max_tokens=most))
    item.progress(
        100 * number / len(titles), f"section {number} of {len(titles)}: {titles[number - 1]}"
    )
    return {"prompt": version, "generated": generated}


def _check(item: Item) -> dict[str, Any]:
    outline = item[OUTLINE]
    parts = [outline, *(item[_section(number)] for number in range(1, _sections(item) + 1))]
    texts = [Generated.model_validate(part["generated"]) for part in parts]
    sections = [text.text.strip() for text in texts[1:]]
    unfinished = [
        number for number, text in enumerate(texts[1:], 1) if text.finish_reason == "MAX_TOKENS"
    ]
    notes = remarks(sections, item.data.language, item.data.length, unfinished)
    if not outline.get("understood", True):
        notes.insert(0, "its outline was not understood: the text is one section")
    if offline := any(text.offline for text in texts):
        notes.insert(0, "no model has written it: a placeholder")
    titled = zip(outline["headings"], sections, strict=True)
    return {
        "text": "\n\n".join(f"{title}\n\n{section}" for title, section in titled),
        "status": "needs review" if notes else "complete",
        "remarks": notes,
        "provider": texts[-1].provider,
        "model": texts[-1].model,
        "offline": offline,
        "prompt_versions": sorted({part["prompt"] for part in parts}),
        "usage": _usage(texts),
    }


def _usage(texts: Sequence[Generated]) -> dict[str, Any]:
    costs = [text.cost for text in texts]
    return {
        "prompt_tokens": sum(text.prompt_tokens for text in texts),
        "output_tokens": sum(text.output_tokens for text in texts),
        "thinking_tokens": sum(text.thinking_tokens for text in texts),
        "seconds": round(sum(text.seconds for text in texts), 3),
        "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
        "calls": [text.model_dump(exclude={"text"}) for text in texts],
    }
