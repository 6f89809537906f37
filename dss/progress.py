"""How long work reports where it is: events for whoever called it."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class Event(NamedTuple):
    """A stage of the work has come to `done` of `total` steps; `text` says what there is to
    know."""

    stage: str
    done: int
    total: int
    text: str


Progress = Callable[[Event], None]


def silent(_: Event) -> None:
    """For those who do not want to know."""


def tracked(items: Iterable[Item], stage: str, total: int, progress: Progress) -> Iterator[Item]:
    """The items, with an event before each and after the last."""
    for done, item in enumerate(items):
        progress(Event(stage, done, total, ""))
        yield item
    progress(Event(stage, total, total, ""))
