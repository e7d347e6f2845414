"""What is said once in a process, on stderr."""

from __future__ import annotations

import sys

_said: set[str] = set()


def say_once(about: str, text: str) -> None:
    """Print a line, if nothing was said ``about`` this before."""
    if about not in _said:
        _said.add(about)
        print(f"gpukm: {text}", file=sys.stderr)
