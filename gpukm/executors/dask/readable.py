"""Whether data can be read on the machine this runs on."""

from __future__ import annotations

from collections.abc import Sequence

from gpukm.errors import GpukmError


def unreadable(paths: Sequence[str]) -> dict[str, str]:
    """Of these files, folders, globs and URLs those that cannot be read here, and why.

    Of several files one stands for is opened the first.
    """
    from gpukm.sources.location import Files
    from gpukm.sources.open import ENDINGS

    found = {}
    for path in paths:
        try:
            files = Files(path, ENDINGS)
            files.open(files.paths[0]).close()
        except GpukmError as error:
            found[path] = str(error)
    return found
