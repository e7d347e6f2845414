"""What workers tell each other without asking the scheduler."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from distributed.protocol import to_serialize

#: The name under which a worker is told.
HEAR = "gpukm_hear"
#: Meetings of which something is kept that was told before they began here, at most.
_MOST_MEETINGS = 32

_CHANGED = threading.Condition()
#: What was told by whom in which round, by meeting; None: somebody gave up.
_HEARD: dict[str, dict[tuple[int, str], Any]] = {}
#: Names of the last meetings that are over: what is still told there is told to nobody.
_OVER: deque[str] = deque(maxlen=1000)


async def hear(meeting: str, number: int, sender: str, said: Any) -> str:
    """What another worker says of a round; called by Dask where this worker is told of it."""
    with _CHANGED:
        if meeting not in _OVER:
            while meeting not in _HEARD and len(_HEARD) >= _MOST_MEETINGS:
                _HEARD.pop(next(iter(_HEARD)))
            _HEARD.setdefault(meeting, {})[number, sender] = said
            _CHANGED.notify_all()
    return "heard"


@contextmanager
def meet(meeting: str) -> Iterator[dict[tuple[int, str], Any]]:
    """What is heard in a meeting until it is over."""
    with _CHANGED:
        heard = _HEARD.setdefault(meeting, {})
    try:
        yield heard
    finally:
        with _CHANGED:
            _HEARD.pop(meeting, None)
            _OVER.append(meeting)


def exchange(
    me: Any,
    meeting: str,
    number: int,
    peers: Sequence[str],
    said: Any,
    heard: dict[tuple[int, str], Any],
    patience_seconds: float,
) -> dict[str, Any] | None:
    """Tell the others, and wait for what they say; None where somebody cannot be told, gave up or takes too long."""
    sent = tell(me, meeting, number, peers, said)
    others = [peer for peer in peers if peer != me.address]

    def broken() -> bool:
        failed = any(one.done() and (one.exception() is not None or one.result() != "heard") for one in sent)
        return failed or None in heard.values()

    with _CHANGED:
        _CHANGED.wait_for(lambda: broken() or all((number, peer) in heard for peer in others), patience_seconds)
        if broken() or not all((number, peer) in heard for peer in others):
            return None
        return {peer: said if peer == me.address else heard.pop((number, peer)) for peer in peers}


def tell(me: Any, meeting: str, number: int, peers: Sequence[str], said: Any) -> list[Future[Any]]:
    """Send something to all others, and do not wait for it."""

    async def say(peer: str) -> Any:
        told = {"meeting": meeting, "number": number, "sender": me.address, "said": to_serialize(said)}
        return await getattr(me.rpc(peer), HEAR)(**told)

    sent = [asyncio.run_coroutine_threadsafe(say(p), me.loop.asyncio_loop) for p in peers if p != me.address]
    for one in sent:
        one.add_done_callback(_look_again)
    return sent


def _look_again(told: Future[Any]) -> None:
    """Have those who wait see that something could not be told; the exception is theirs to look at."""
    if not told.cancelled() and told.exception() is not None:
        with _CHANGED:
            _CHANGED.notify_all()
