"""Whatever befalls the workers of a cluster, a job ends with the bits of a run in one undisturbed process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpukm.executors.dask.executor import DaskExecutor
from tests.faults import Bits, Cluster, Job, struck, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows")


@pytest.fixture(scope="module")
def undisturbed(source: str, tmp_path_factory: pytest.TempPathFactory) -> Bits:
    """The job in this process."""
    return Job.of(source, tmp_path_factory.mktemp("here")).run()


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three workers, which their nannies start again."""
    cluster = Cluster(tmp_path_factory.mktemp("standing"))
    try:
        cluster.scheduler()
        for _ in range(3):
            cluster.worker(nanny=True)
        with cluster.client(3) as client:
            yield client
    finally:
        cluster.close()


#: Each phase of train and assign, and a function that workers call in it.
PHASES = {
    "count": "gpukm.sources.ranges:_count",
    "preprocess": "gpukm.preprocessing.survey:look",
    "quantiles": "gpukm.preprocessing.fitting:_search",
    "covariance": "gpukm.preprocessing.fitting:_gram",
    "read": "gpukm.pipeline.reading:_take",
    "load": "gpukm.core.stretch:Stretch.open",
    "first look": "gpukm.problem:_look",
    "sample": "gpukm.core.seeding:_rows_at",
    "seed": "gpukm.core.pooled:_choose",
    "step": "gpukm.core.lloyd:_step",
    "reduce": "gpukm.executors.dask.worker:merge_all",
    "move": "gpukm.core.lloyd:_move",
    "finish": "gpukm.core.lloyd:finish_shard",
    "survey": "gpukm.core.summary:survey",
    "summarize": "gpukm.pipeline.content:_describe",
    "assign": "gpukm.pipeline.assigning:_write_part",
}


@pytest.mark.parametrize("after", [False, True], ids=["begun", "done"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_worker_killed(
    standing: Any, source: str, undisturbed: Bits, tmp_path: Path, phase: str, after: bool
) -> None:
    standing.wait_for_workers(2, timeout=40)
    with struck(standing, PHASES[phase], tmp_path / "struck", after=after):
        found = Job.of(source, tmp_path / "job").run(DaskExecutor(standing))
    assert found == undisturbed
