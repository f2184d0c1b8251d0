"""Types of the functions by which long operations report to whoever called them."""

from collections.abc import Callable

Notify = Callable[[str], None]  # receives one sentence for a person: a warning, or what happens next
Progress = Callable[[int, int], None]  # receives how many items are done, and how many there are
