"""The pages of the documentation that come with the package: what they say of a verdict, of a word, of data."""

import functools
import re
import textwrap
from pathlib import Path

from ..core.findings import Finding, Verdict

NAMES = ("verdicts", "prepare", "glossary")
#: In a wheel beside the package, in a checkout where they are written.
_FOLDERS = (Path(__file__).parents[1] / "pages", Path(__file__).parents[3] / "docs")


@functools.cache
def page(name: str) -> str:
    """Return a page, in Markdown; empty if it is not there."""
    found = [folder / f"{name}.md" for folder in _FOLDERS if (folder / f"{name}.md").is_file()]
    return found[0].read_text(encoding="utf-8") if found else ""


@functools.cache
def sections(name: str) -> dict[str, str]:
    """Return what stands below each heading of a page."""
    parts = re.split(r"^## +(.*)\n", page(name), flags=re.M)
    return {heading: body.strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def words() -> dict[str, str]:
    """Return the words of the glossary, each with what it means."""
    entries = re.findall(r"^(\w[^\n]*)\n: (.*?)(?=\n\n|\Z)", page("glossary"), flags=re.M | re.S)
    return {name.strip(" )"): f"{term}: {text}" for term, text in entries for name in re.split(r"[,(]", term.lower())}


def advice(finding: Finding | None) -> tuple[str, str, tuple[str, ...]]:
    """Return a headline, what it means, and what to do next; None stands for a result without any finding."""
    verdict = Verdict.SOLVED if finding is None else finding.verdict
    headline = "Solved" if finding is None else verdict.name.replace("_", " ").capitalize()
    meaning, _, step = verdict.value.partition(": ")
    if finding is not None and finding.remedy:
        return headline, meaning, (finding.remedy,)
    if verdict.name not in sections("verdicts"):
        return headline, meaning, (step,) if step else ()
    meaning, *steps = re.split(r"^- ", sections("verdicts")[verdict.name], flags=re.M)
    return headline, _plain(meaning), tuple(map(_plain, steps))


def explain(word: str) -> str:
    """Return what the pages say of a verdict, with what of "Prepare your data" it leads to, or of another word."""
    name, term = word.upper().replace("-", "_").replace(" ", "_"), word.lower().replace("_", " ")
    found = [page("prepare").strip()] if term == "prepare" else []
    if name in sections("verdicts"):
        found = [f"## {name}\n\n{sections('verdicts')[name]}"]
        steps = {_anchor(heading): f"## {heading}\n\n{body}" for heading, body in sections("prepare").items()}
        found += [steps[at] for at in dict.fromkeys(re.findall(r"\]\(prepare\.md#([^)]*)\)", found[0]))]
    found += [words()[term]] if term in words() else []
    if found:
        return "\n\n".join(found)
    verdicts = ", ".join(verdict.name.lower() for verdict in Verdict)
    raise ValueError(f"got {word!r}, need 'prepare', a verdict ({verdicts}), or a word: {', '.join(words())}")


def filled(markdown: str, width: int) -> str:
    """Return a text for a terminal: links are words, paragraphs and steps are as wide as it; tables and code stay."""
    out = []
    for at, part in enumerate(re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)):
        for block in [part] if at % 2 else re.split(r"\n\n+", _links(part).strip()):
            if at % 2 or block.startswith(("|", "#")):
                out.append(block)
                continue
            items = [" ".join(item.split()) for item in re.split(r"\n(?=- )", block)]
            out.append(
                "\n".join(textwrap.fill(item, width, subsequent_indent="  " * (item[:2] == "- ")) for item in items)
            )
    return "\n\n".join(filter(None, out))


def _anchor(heading: str) -> str:
    """Return what a link says of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _links(markdown: str) -> str:
    """Return a text in which links are words, and those that only lead on are left out."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r" ?\(\[more\]\([^)]*\)\)", "", markdown))


def _plain(markdown: str) -> str:
    return " ".join(_links(markdown).replace("`", "").split())
