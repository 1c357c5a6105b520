"""The content family: `content/generate.requested` -> choose a provider -> outline -> sections -> check -> save -> notify.

Every section is a kept step, so that a crash in the seventh pays for one section.
"""

from functools import partial
from typing import Any

from dagster import in_process_executor, job, op

from resources.ai.content import Contents, remarks
from resources.ai.generators import Generated, Prompt
from resources.ai.outlines import SHAPE, headings
from resources.ai.prompts import render_prompt
from resources.ai.providers import Providers
from resources.ai.text_length import unit
from runyard import Batch, Event, Item, receive, settle

CHOOSE, OUTLINE, CHECK, SAVE, NOTIFY, RESULT = (
    "choose-provider",
    "outline",
    "check",
    "save",
    "notify",
    "result",
)
MOST_SECTIONS = 12
_A_SECTION = {"words": 200, "characters": 400}
# Models that think do so within the limit of tokens, and a section is nothing without its end.
_ROOM_TO_THINK = 8_000
# Requests to providers at a time. A text is kept at once, for it has cost something.
_KEPT_AT_ONCE: dict[str, Any] = {"threads": 4, "checkpoint_every": 1}


@op
def choose_provider(batch: Batch, providers: Providers) -> Batch:
    """Who is to write: the one that is asked for, else the first that is switched on; where it is down when it is needed, the next one."""
    return batch.map(CHOOSE, lambda item: providers.candidates(item.data.provider)[0].name)


@op
def write_outline(batch: Batch, providers: Providers) -> Batch:
    """Have the headings written."""

    def write(item: Item) -> dict[str, Any]:
        item.progress(0, "writing the outline")
        data = _data(item)
        sections = min(MOST_SECTIONS, max(1, round(item.data.length / _A_SECTION[data["unit"]])))
        prompt, version = render_prompt("outline", {**data, "sections": sections})
        made = providers.generate(_prompt(item, prompt, OUTLINE, shape=SHAPE))
        found = headings(made.text, MOST_SECTIONS if made.offline else sections)
        # Without an outline the text is one section, and somebody looks at it.
        return {
            "headings": found or [item.data.topic[:300]],
            "understood": bool(found),
            "prompt": version,
            "made": made,
        }

    return batch.map(OUTLINE, write, **_KEPT_AT_ONCE)


@op
def write_sections(batch: Batch, providers: Providers) -> Batch:
    """Have the sections written one after the other, each a step of its own."""
    for number in range(1, max((_sections(item) for item in batch.active_items()), default=0) + 1):
        batch.map(
            _section(number),
            partial(_write, number=number, providers=providers),
            when=partial(_has_section, number=number),
            **_KEPT_AT_ONCE,
        )
    return batch


@op
def check_content(batch: Batch) -> Batch:
    """Put the sections together, and look at length, language and ends."""
    return batch.map(CHECK, _check)


@op
def save_content(batch: Batch, contents: Contents) -> Batch:
    """Keep the text."""

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
    """Tell the user, where that was asked for."""

    def tell(item: Item) -> list[Event]:
        if not item.data.notify:
            return []
        text = f"{item.data.kind.capitalize()}: {item.data.topic[:200]}"
        return [
            Event(
                "notification/requested",
                {
                    "user": item.data.user,
                    "kind": "content",
                    "title": "Your text is ready",
                    "message": text,
                },
            )
        ]

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
    settle(
        notify_author(
            save_content(check_content(write_sections(write_outline(choose_provider(receive())))))
        )
    )


def _section(number: int) -> str:
    return f"section-{number}"


def _sections(item: Item) -> int:
    return len(item[OUTLINE]["headings"])


def _has_section(item: Item, number: int) -> bool:
    return number <= _sections(item)


def _data(item: Item) -> dict[str, Any]:
    """What the prompts are made of."""
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
    made: Generated = providers.generate(_prompt(item, prompt, "section", max_tokens=most))
    item.progress(
        100 * number / len(titles), f"section {number} of {len(titles)}: {titles[number - 1]}"
    )
    return {"prompt": version, "made": made}


def _check(item: Item) -> dict[str, Any]:
    parts = [item[OUTLINE], *(item[_section(number)] for number in range(1, _sections(item) + 1))]
    made = [Generated.model_validate(part["made"]) for part in parts]
    texts = [one.text.strip() for one in made[1:]]
    unfinished = [
        number for number, one in enumerate(made[1:], 1) if one.finish_reason == "MAX_TOKENS"
    ]
    found = remarks(texts, item.data.language, item.data.length, unfinished)
    if not item[OUTLINE].get("understood", True):
        found.insert(0, "its outline was not understood: the text is one section")
    offline = any(one.offline for one in made)
    costs = [one.cost for one in made]
    return {
        "text": "\n\n".join(
            f"{title}\n\n{text}"
            for title, text in zip(item[OUTLINE]["headings"], texts, strict=True)
        ),
        "status": "needs review" if found or offline else "complete",
        "remarks": [*(["no model has written it: a placeholder"] if offline else []), *found],
        "provider": made[-1].provider,
        "model": made[-1].model,
        "offline": offline,
        "prompt_versions": sorted({part["prompt"] for part in parts}),
        "usage": {
            "prompt_tokens": sum(one.prompt_tokens for one in made),
            "output_tokens": sum(one.output_tokens for one in made),
            "thinking_tokens": sum(one.thinking_tokens for one in made),
            "seconds": round(sum(one.seconds for one in made), 3),
            "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
            "calls": [one.model_dump(exclude={"text"}) for one in made],
        },
    }
