"""Texts of queries as words: names, numbers, texts and signs. Everything else is refused, comments are left out."""

import re
from dataclasses import dataclass
from typing import Literal

MAX_CHARS = 5000

Kind = Literal["name", "quoted", "text", "number", "sign", "end"]


class QueryRefused(ValueError):
    """The query is not one of those that are carried out; the message names what isn't allowed, and where it stands."""


@dataclass(frozen=True, slots=True)
class Word:
    kind: Kind
    text: str  # what was meant: of a text without its quotes
    place: int  # in the query, from 1

    @property
    def name(self) -> str:
        """As the grammar compares it: what is quoted is no keyword."""
        return self.text.lower() if self.kind == "name" else self.text if self.kind == "sign" else ""

    def told(self) -> str:
        shown = self.text if len(self.text) <= 40 else self.text[:37] + "..."
        match self.kind:
            case "end":
                return "the end of the query"
            case "text":
                return f"the text '{shown}' (character {self.place})"
            case _:
                return f"{shown} (character {self.place})"


_WORD = re.compile(
    r"""(?P<blank>[ \t\r\n]+|--[^\n]*|/\*.*?\*/)
      | (?P<number>[0-9]{1,15}(?:\.[0-9]{1,15})?(?![\w.]))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]{0,62}(?![\w$]))
      | '(?P<text>(?:[^'\0]|'')*)'(?!')
      | "(?P<quoted>[^"\0]{1,63})"
      | (?P<sign><=|>=|<>|!=|::|[-+*/%=<>(),.;])""",
    re.VERBOSE | re.DOTALL,
)


def words(query: str) -> list[Word]:
    """The words of a query, and its end.

    Raises:
        QueryRefused: it is too long, or holds what is no word.
    """
    if len(query) > MAX_CHARS:
        raise QueryRefused(f"a query has at most {MAX_CHARS} characters, not {len(query)}")
    found: list[Word] = []
    place = 0
    while place < len(query):
        match = _WORD.match(query, place)
        if match is None:
            raise QueryRefused(f"{query[place : place + 12]!r} (character {place + 1}) is not understood here")
        kind = match.lastgroup
        assert kind is not None
        if kind != "blank":
            text = match[kind].replace("''", "'") if kind == "text" else match[kind]
            found.append(Word(kind, text, place + 1))  # pyright: ignore[reportArgumentType]
        place = match.end()
    return [*found, Word("end", "", place + 1)]
