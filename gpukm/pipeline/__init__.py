"""The jobs: from a data file to a snapshot, and from a snapshot and a data file to labels.

The command line, and whatever else needs work done, calls :func:`train`, :func:`assign` and :func:`submit` of this
package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpukm.pipeline.assigning import AssignOutcome, assign
    from gpukm.pipeline.assigning_groups import AssignedGroups, assign_groups
    from gpukm.pipeline.grouped import GroupedOutcome, train_groups
    from gpukm.pipeline.jobs.job import Jobs
    from gpukm.pipeline.jobs.submit import submit
    from gpukm.pipeline.progress import Progress
    from gpukm.pipeline.training import TrainOutcome, train

__all__ = [
    "AssignOutcome",
    "AssignedGroups",
    "GroupedOutcome",
    "Jobs",
    "Progress",
    "TrainOutcome",
    "assign",
    "assign_groups",
    "submit",
    "train",
    "train_groups",
]

_HOMES = {
    "AssignOutcome": "assigning",
    "AssignedGroups": "assigning_groups",
    "GroupedOutcome": "grouped",
    "Jobs": "jobs.job",
    "Progress": "progress",
    "TrainOutcome": "training",
    "assign": "assigning",
    "assign_groups": "assigning_groups",
    "submit": "jobs.submit",
    "train": "training",
    "train_groups": "grouped",
}


def __getattr__(name: str) -> Any:
    """Import a job when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
