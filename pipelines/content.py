"""The content family: `content/generate.requested` -> outline -> sections -> check -> save.

Every section is a step, so a crash during the seventh costs one section. The finished text is
checked, saved, and its author is notified.
"""

from collections.abc import Sequence
from typing import Any

from pipelines.events import ContentGenerateRequested
from resources.ai.content import remarks
from resources.ai.generators import Generated, Prompt
from resources.ai.outlines import SHAPE, headings
from resources.ai.prompts import render_prompt
from resources.ai.providers import Providers
from resources.ai.tables import Contents
from resources.ai.text_length import unit
from runyard import Event, Item, step

MOST_SECTIONS = 12
_A_SECTION = {"words": 200, "characters": 400}
# Reasoning counts against the token limit, and a section without its end is useless.
_ROOM_TO_THINK = 8_000
_THREADS = 4  # concurrent requests to providers
_ContentItem = Item[ContentGenerateRequested]


@step(name="choose-provider")
def choose_provider(item: _ContentItem, providers: Providers) -> str:
    """Choose the requested provider, else the first that is on; if it is down, the next writes."""
    return providers.candidates(item.data.provider)[0].name


@step(op="write_outline", threads=_THREADS, checkpoint_every=1)
def outline(item: _ContentItem, providers: Providers) -> dict[str, Any]:
    """Generate the headings."""
    item.progress(0, "writing the outline")
    data = _data(item)
    sections = min(MOST_SECTIONS, max(1, round(item.data.length / _A_SECTION[data["unit"]])))
    prompt, version = render_prompt("outline", {**data, "sections": sections})
    generated = providers.generate(_prompt(item, prompt, "outline", shape=SHAPE))
    titles = headings(generated.text, MOST_SECTIONS if generated.offline else sections)
    # Without an outline the text is one section, with a remark for the editor.
    return {
        "headings": titles or [item.data.topic[:300]],
        "understood": bool(titles),
        "prompt": version,
        "generated": generated,
    }


def _numbered_headings(item: _ContentItem) -> Sequence[tuple[int, str]]:
    return list(enumerate(outline.result(item)["headings"], 1))


# Each text is recorded at once, because it costs money.
@step(op="write_sections", each=_numbered_headings, threads=_THREADS, checkpoint_every=1)
def section(item: _ContentItem, heading: tuple[int, str], providers: Providers) -> dict[str, Any]:
    """Generate the sections one after the other, each as its own step."""
    number, title = heading
    titles = outline.result(item)["headings"]
    length = max(20, item.data.length // len(titles))
    data = {"number": number, "headings": titles, "section_length": length}
    prompt, version = render_prompt("section", {**_data(item), **data})
    most = length * 4 + 200 + _ROOM_TO_THINK
    item.progress(100 * (number - 1) / len(titles), f"section {number} of {len(titles)}: {title}")
    for piece in providers.pieces(_prompt(item, prompt, "section", max_tokens=most)):
        if isinstance(piece, str):
            item.write(piece)
        else:
            generated = piece
    return {"prompt": version, "generated": generated}


@step(op="check_content")
def check(item: _ContentItem) -> dict[str, Any]:
    """Join the sections, and check the length, the language and the endings."""
    outlined, parts = outline.result(item), _parts(item)
    texts = _texts(parts)
    sections = [text.text.strip() for text in texts[1:]]
    unfinished = [
        number for number, text in enumerate(texts[1:], 1) if text.finish_reason == "MAX_TOKENS"
    ]
    notes = remarks(sections, item.data.language, item.data.length, unfinished)
    if not outlined.get("understood", True):
        notes.insert(0, "its outline was not understood: the text is one section")
    if offline := any(text.offline for text in texts):
        notes.insert(0, "no model has written it: a placeholder")
    titled = zip(outlined["headings"], sections, strict=True)
    return {
        "text": "\n\n".join(f"{title}\n\n{section}" for title, section in titled),
        "status": "needs review" if notes else "complete",
        "remarks": notes,
        "provider": texts[-1].provider,
        "model": texts[-1].model,
        "offline": offline,
        "prompt_versions": sorted({part["prompt"] for part in parts}),
    }


@step(op="save_content")
def save(item: _ContentItem, contents: Contents) -> str:
    """Save the text."""
    contents.save(
        {
            "id": item.key,
            "event_id": item.event.id,
            "outline": outline.result(item)["headings"],
            **check.result(item),
            "usage": _usage(_texts(_parts(item))),
            **item.data.model_dump(include={"user", "topic", "kind", "language"}),
        }
    )
    return item.key


@step
def result(item: _ContentItem) -> dict[str, Any]:
    """Return where the text is, and what the checks have found."""
    checked = check.result(item)
    found = {key: checked[key] for key in ("status", "provider", "offline", "remarks")}
    return {"content": save.result(item), **found}


def notification(item: _ContentItem) -> Sequence[Event]:
    """Notify the user, if requested."""
    data = item.data
    if not data.notify:
        return []
    message = {
        "user": data.user,
        "kind": "content",
        "title": "Your text is ready",
        "message": f"{data.kind.capitalize()}: {data.topic[:200]}",
    }
    return [Event("notification/requested", message)]


def _data(item: _ContentItem) -> dict[str, Any]:
    """The data for the prompts."""
    return {**item.data.model_dump(), "unit": unit(item.data.language)}


def _prompt(item: _ContentItem, prompt: str, purpose: str, **more: Any) -> Prompt:
    data = item.data
    return Prompt(
        prompt=prompt,
        provider=choose_provider.result(item),
        model=data.model,
        user=data.user,
        purpose=purpose,
        topic=data.topic,
        **more,
    )


def _parts(item: _ContentItem) -> list[dict[str, Any]]:
    """The results of all steps that a model has written."""
    return [outline.result(item), *section.results(item)]


def _texts(parts: Sequence[dict[str, Any]]) -> list[Generated]:
    return [Generated.model_validate(part["generated"]) for part in parts]


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
