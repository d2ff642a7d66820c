"""A library with connections, and how its objects are found.

Objects are noted when they are made: their class's `__init__` is wrapped when the library has just been loaded, by an import
hook that is set before user code is imported. The garbage collector knows all objects as well, but not those of a
zygote, which are set aside (`gc.freeze`), and pools are mostly made at import.
"""

import functools
import importlib.abc
import importlib.machinery
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import ModuleType
from typing import Any

Turn = Callable[[Awaitable[Any]], Any]
"""Brings an awaitable to its end while everything else stands still, and returns what it returns."""
STEP_TIMEOUT_S = 2.0
"""How long polite words to a server may take."""


def _nothing(*_: Any) -> list[str]:
    return []


@dataclass(frozen=True)
class Library:
    """What to do for its connections.

    Attributes:
        classes: module -> attributes of it: the classes whose objects are kept track of.
        in_use: what must not be cut off, in words.
        drop: close idle connections.
        reopen: open those that are promised to be open.
    """

    name: str
    classes: Mapping[str, Sequence[str]]
    in_use: Callable[[], list[str]] = _nothing
    drop: Callable[[Turn | None], Any] = _nothing
    reopen: Callable[[Turn | None], Any] = _nothing
    objects: dict[str, "weakref.WeakSet[Any]"] = field(default_factory=dict[str, "weakref.WeakSet[Any]"])

    @property
    def is_used(self) -> bool:
        return any(self.objects.values())

    def all(self, dotted: str) -> list[Any]:
        """The live objects of a class, as it is named in `classes`, with its module."""
        return list(self.objects.get(dotted, ()))


def keep_track(libraries: Iterable[Library]) -> None:
    """Note each object that is made from now on. Libraries that are loaded later are included."""
    finder = next((each for each in sys.meta_path if isinstance(each, _Finder)), None)
    if finder is None:
        finder = _Finder()
        sys.meta_path.insert(0, finder)
    for library in libraries:
        for name in library.classes:
            finder.libraries[name] = library
            if (module := sys.modules.get(name)) is not None:
                _wrap(library, module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds as usual, and has our libraries' classes wrapped when they have been loaded."""

    def __init__(self) -> None:
        self.libraries: dict[str, Library] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        library = self.libraries.get(fullname)
        if library is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, library)
        return spec


class _Loader(importlib.abc.Loader):
    """Stands in for a module's own loader until it has loaded it."""

    def __init__(self, own: Any, library: Library) -> None:
        self._own = own
        self._library = library

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._own.exec_module(module)
        _wrap(self._library, module)


def _wrap(library: Library, module: ModuleType) -> None:
    for name in library.classes[module.__name__]:
        dotted = f"{module.__name__}.{name}"
        try:
            wrapped = attrgetter(name)(module)
        except AttributeError:
            continue  # another version: nothing is known of its objects, and nothing done
        if dotted not in library.objects:
            library.objects[dotted] = weakref.WeakSet()
            _note_objects(wrapped, library.objects[dotted])


def _note_objects(noted: Any, objects: "weakref.WeakSet[Any]") -> None:
    original = noted.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        objects.add(self)

    noted.__init__ = __init__
