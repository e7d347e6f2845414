"""Rounds that workers make by themselves: each tells the others what its step came to, and goes on once it heard all.

Between rounds nobody asks the scheduler, whose answers take longer than many a step. All workers merge the same values
and so come to the same next one. One that does not hear of another in time gives up: then the rounds that were made
stand, and the caller goes on by ordinary steps, which know what to do about workers that are lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from distributed import get_worker

from gpukm.executors.base import Reopener, Rounds
from gpukm.executors.dask import worker
from gpukm.executors.dask.mailbox import exchange, give_up, meet

#: How long to wait for the others, beside twice the time that the own step took.
_PATIENCE_SECONDS = 1.0


def take_part(
    meeting: str,
    peers: Sequence[str],
    most: int,
    seconds: float,
    advance: Callable[[Any, Any, list[Any]], tuple[Any, Any, bool]],
    placement: str,
    on: str,
    version: int,
    openers: Sequence[Reopener],
    numbers: Sequence[int],
    step: Callable[..., Any],
    merge: Callable[[Any, Any], Any],
    n_values: int,
    value: Any,
    *given: Any,
) -> Rounds | None:
    """One worker's part of some rounds.

    Parameters
    ----------
    meeting : str
        Names these rounds.
    peers : sequence of str
        Addresses of all who take part; the first one returns what they came to.
    most : int
        Rounds at most.
    seconds : float
        No round is begun once any worker has been at it for so long.
    advance : callable
        As of :meth:`gpukm.executors.base.Placement.rounds`.
    placement, on, version, openers, numbers, step, merge, n_values
        As of :func:`gpukm.executors.dask.worker.run`.
    value : object
        The step's last argument in the first round.
    """
    told: list[Any] = []
    before, began, me, spent, goes_on = value, time.monotonic(), get_worker(), 0.0, True
    if me.address != on:
        # The worker that was meant was lost, or this one took its task; the others know only its address.
        give_up(me, meeting, peers)
        return Rounds(told, value, before) if on == peers[0] else None
    with meet(me, meeting) as heard:
        try:
            while goes_on and len(told) < most and spent < seconds and not worker.is_closed(placement):
                begun = time.monotonic()
                own = worker.run(
                    placement, on, version, openers, numbers, step, merge, None, n_values, (), *given, value
                )
                now = time.monotonic()
                patience = _PATIENCE_SECONDS + 2 * (now - begun)
                found = exchange(me, meeting, len(told), peers, (own, now - began), heard, patience)
                if found is None:
                    break
                merged = reduce(merge, (found[peer][0] for peer in peers))
                following, decision, goes_on = advance(merged, value, told)
                before, value = value, following
                told.append(decision)
                # The same for all, and so all of them stop after the same round.
                spent = max(elapsed for _, elapsed in found.values())
            else:
                goes_on = worker.is_closed(placement)
        finally:
            if goes_on:
                give_up(me, meeting, peers)
    return Rounds(told, value, before) if on == peers[0] else None
