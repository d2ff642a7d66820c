"""Files that another process looks for, reads as soon as they are there, and must not find half written."""

from pathlib import Path


def put(path: Path, text: str) -> None:
    """At once, as editors do: whoever looks finds all of the text, or what was there before."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.rename(path)
