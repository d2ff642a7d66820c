"""What a page looks like at a glance: where to look for an equal one, and where a block ends.

A print is made of three words of the page. Equal pages have equal prints, so a page that a base has elsewhere is found by
looking its print up, and then compared. And blocks end where a print says so: content that moved by any number of pages is
cut at the same places again. Reading three words is twenty times as quick as hashing the page.
"""

from typing import Any

from torpor.images.pages import PAGE

WORDS = PAGE // 8
_A, _B, _C = 61, 250, 437
"""Which words: not the first ones, where allocators write the same things into many pages."""

MOST_PAGES = 32
"""of a block"""


def words(view: Any) -> Any:
    """Whole pages as words, for `of`."""
    return view[: len(view) // PAGE * PAGE].cast("Q")


def of(words: Any, page: int) -> int:
    """The print of this page. 0 says nothing: most of the page may be zeros."""
    at = page * WORDS
    return words[at + _A] ^ (words[at + _B] << 1) ^ (words[at + _C] << 2)


def ends_block(print: int) -> bool:
    """Whether a block ends with this page: one page of 17 says so."""
    return print % 17 == 5
