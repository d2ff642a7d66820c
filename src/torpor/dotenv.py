"""Reading `.env` files: as shells and other tools write them, without expanding anything.

NAME=value          up to the end of the line, or to a `#` behind a space; spaces around it don't count
export NAME=value   the same
NAME='value'        as it stands, over several lines, too
NAME="value"        the same, with \\n, \\t, \\r, \\", \\\\ and \\$
# a comment
"""

import re

from torpor.errors import ConfigError

_LINE = re.compile(
    r"""[ \t]*(?:\#[^\n]*)?(?:\n|$)                                     # nothing
    |   [ \t]*(?:export[ \t]+)?(?P<name>[^\s=\#'"]+)[ \t]*=[ \t]*
        (?:'(?P<literal>[^']*)' | "(?P<quoted>(?:[^"\\]|\\.)*)" | (?P<bare>(?!['"])[^\n]*?))
        [ \t]*(?:(?<=[\s'"=])\#[^\n]*)?(?:\n|$)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def parse_dotenv(text: str, where: str) -> dict[str, str]:
    r"""The variables of such a file; of a name that is there twice the last one counts.

    Args:
        where: its name, for the message.

    Raises:
        ConfigError: a line is none of those; it names the line and says nothing of what is in it.

    >>> parse_dotenv("A=1 # one\nexport B='two words'\nC=\"3\\n\"\nD=", ".env")
    {'A': '1', 'B': 'two words', 'C': '3\n', 'D': ''}
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _LINE.match(text, at)
        if match is None:
            line = text.count("\n", 0, at) + 1
            raise ConfigError(f"{where}, line {line}: it should be NAME=value, with both quotes if there is one")
        if name := match["name"]:
            found[name] = _value(match)
        at = match.end()
    return found


def _value(match: re.Match[str]) -> str:
    if (literal := match["literal"]) is not None:
        return literal
    if (quoted := match["quoted"]) is not None:
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), quoted, flags=re.DOTALL)
    return match["bare"]
