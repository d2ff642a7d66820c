"""Did you mean …?"""

import difflib
from collections.abc import Iterable


def near(name: str, names: Iterable[str]) -> list[str]:
    """Of these names up to three that are like it, the likest first."""
    by_folded = {each.casefold(): each for each in names}
    return [by_folded[folded] for folded in difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)]
