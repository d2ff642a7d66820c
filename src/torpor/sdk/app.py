"""`torpor.app`: hooks for all tasks of a project."""

from torpor.sdk.hooks import Hook, Hooked


class App(Hooked):
    """What all tasks of this process have in common. There is one: `torpor.app`.

    Example:
        >>> from torpor import app, current
        >>> @app.on_failure
        ... def tell(error: BaseException) -> None:
        ...     print(current.task_id, "failed:", error)
        >>> app.forget(tell)  # examples must leave no hooks behind
    """

    def __init__(self) -> None:
        self._hooks: dict[str, list[Hook]] = {}
        self._is_async = None

    def forget(self, function: object) -> None:
        """Take a hook back, for tests."""
        for hooks in self._hooks.values():
            hooks[:] = [hook for hook in hooks if hook.function is not function]


app = App()
