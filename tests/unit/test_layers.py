"""Imports point down only."""

from __future__ import annotations

import ast
from pathlib import Path

import gpukm_kernels
import pytest

import gpukm

#: From the top; a room may import those beside it and below it.
LAYERS = (
    ("cli", "__main__"),
    ("pipeline", "plan", "checkpoint", "selfcheck"),
    ("functional", "small", "batched", "minibatch", "stream", "estimators", "snapshots", "reports", "config"),
    ("problem",),
    ("core", "executors", "sources", "preprocessing"),
    ("backends",),
)
#: What every layer speaks: errors, and the exact sums and statistics that backends fill and the algorithm merges.
COMMON = ("gpukm.errors", "gpukm.core.exact", "gpukm.core.stats")
#: What these must not import, wherever they stand.
FORBIDDEN = {
    "core": ("sklearn", "pyarrow", "fsspec", "pydantic", "rich", "jinja2", "dask", "typer"),
    "backends": ("scipy", "sklearn", "pyarrow", "fsspec", "pydantic", "rich", "jinja2", "dask", "typer"),
    "executors": ("sklearn", "pyarrow", "fsspec", "pydantic", "rich", "jinja2", "typer"),
    "reports": ("typer", "pyarrow", "fsspec", "pydantic"),
    "snapshots": ("typer", "rich", "jinja2", "pydantic"),
}


def modules(package: object) -> list[Path]:
    """Every module of an installed package."""
    return sorted(Path(package.__file__).parent.rglob("*.py"))  # type: ignore[attr-defined]


def name_of(path: Path) -> str:
    """``gpukm.core.rng`` for its path."""
    parts = path.relative_to(Path(gpukm.__file__).parent.parent).with_suffix("").parts
    return ".".join(parts)


def imports(tree: ast.AST) -> set[str]:
    """What a module imports, at the top, within functions, and for the type checker alone."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def layer(room: str) -> int:
    """Height of a room, 0 at the bottom."""
    return next(height for height, rooms in enumerate(reversed(LAYERS)) if room in rooms)


def room_of(name: str) -> str | None:
    """``core`` for ``gpukm.core.rng``; None for ``gpukm`` itself and for what all layers speak."""
    parts = name.split(".")
    common = any(name == c or name.startswith(c + ".") for c in COMMON)
    rooms = {room for rooms in LAYERS for room in rooms}
    return parts[1] if parts[0] == "gpukm" and not common and len(parts) > 1 and parts[1] in rooms else None


@pytest.mark.parametrize("path", modules(gpukm), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    name, found = name_of(path), imports(ast.parse(path.read_text()))
    if name in ("gpukm.__init__", "gpukm.errors"):  # the first only names things; the second imports nothing of gpukm
        assert name == "gpukm.__init__" or not any(i.startswith("gpukm") for i in found)
        return
    if name == "gpukm.core.stats":
        assert not any(i.startswith("gpukm") and not i.startswith(COMMON) for i in found)
    room = room_of(name) or "core"
    # A package's name comes along with what is imported from it; alone it says too little.
    for target in sorted(found):
        other = room_of(target)
        if other and not any(t.startswith(target + ".") for t in found):
            assert layer(other) <= layer(room), f"{name} imports {target}, which is above it"
        if target.startswith("gpukm_kernels"):
            assert room == "backends", f"{name} imports {target}; only backends know the kernels"
        assert target.split(".")[0] not in FORBIDDEN.get(room, ()), f"{name} imports {target}"


def test_every_room_has_its_layer() -> None:
    rooms = {name_of(path).split(".")[1] for path in modules(gpukm)} - {"__init__", "errors"}
    assert rooms == {room for rooms in LAYERS for room in rooms}


def test_kernels_know_nothing_of_gpukm() -> None:
    for path in modules(gpukm_kernels):
        assert not any(i.split(".")[0] == "gpukm" for i in imports(ast.parse(path.read_text()))), path
