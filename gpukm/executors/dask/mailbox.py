"""What workers tell each other without asking the scheduler."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from distributed.protocol import to_serialize

#: The name under which a worker is told.
HEAR = "gpukm_hear"
#: For how long one that is told waits for its own part in a meeting to begin, and how often it looks.
_BEGIN_SECONDS, _LOOK_SECONDS = 30.0, 0.01
#: How often one that waits for others asks whether they are there.
_PING_SECONDS = 2.0
_GAVE_UP = -1

_CHANGED = threading.Condition()
#: What was told by whom in which round, by the meetings that go on in this process; somebody gave up in round -1.
_HEARD: dict[str, dict[tuple[int, str], Any]] = {}


async def hear(meeting: str, number: int, sender: str, said: Any) -> str:
    """What another worker says of a round; called by Dask where this worker is told of it."""
    for _ in range(round(_BEGIN_SECONDS / _LOOK_SECONDS)):
        with _CHANGED:
            if meeting in _HEARD:
                _HEARD[meeting][number, sender] = said
                _CHANGED.notify_all()
                return "heard"
        await asyncio.sleep(_LOOK_SECONDS)
    return "nobody is here"


@contextmanager
def meet(me: Any, meeting: str) -> Iterator[dict[tuple[int, str], Any]]:
    """What this worker is told in a meeting until it leaves."""
    with _CHANGED:
        heard = _HEARD.setdefault(_at(meeting, me.address), {})
    try:
        yield heard
    finally:
        with _CHANGED:
            _HEARD.pop(_at(meeting, me.address), None)


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
    deadline = time.monotonic() + patience_seconds

    def missing() -> list[str]:
        return [peer for peer in peers if peer != me.address and (number, peer) not in heard]

    def broken() -> bool:
        return any(one.done() and not _arrived(one) for one in sent) or any(n == _GAVE_UP for n, _ in heard)

    while True:
        left = deadline - time.monotonic()
        with _CHANGED:
            _CHANGED.wait_for(lambda: broken() or not missing(), max(0.0, min(left, _PING_SECONDS)))
            if not broken() and not missing():
                return {peer: said if peer == me.address else heard.pop((number, peer)) for peer in peers}
            if broken() or left <= 0:
                return None
            absent = missing()
        # Whoever was told and then died says nothing more, and nothing would say so.
        sent += [_ask(me, peer) for peer in absent]


def tell(me: Any, meeting: str, number: int, peers: Sequence[str], said: Any) -> list[Future[Any]]:
    """Send something to all others, and do not wait for it."""

    async def say(peer: str) -> Any:
        told = {"meeting": _at(meeting, peer), "number": number, "sender": me.address, "said": to_serialize(said)}
        return await getattr(me.rpc(peer), HEAR)(**told)

    return [_started(me, say(peer)) for peer in peers if peer != me.address]


def give_up(me: Any, meeting: str, peers: Sequence[str]) -> None:
    """Have the others not wait any longer."""
    tell(me, meeting, _GAVE_UP, peers, None)
    with _CHANGED:
        # Where a task was given to another worker this may be one of them.
        if (here := _HEARD.get(_at(meeting, me.address))) is not None:
            here[_GAVE_UP, me.address] = None
            _CHANGED.notify_all()


def _at(meeting: str, address: str) -> str:
    """A meeting as one worker takes part in it: there may be several in a process."""
    return f"{meeting} {address}"


def _ask(me: Any, peer: str) -> Future[Any]:
    """Ask whether somebody is there; one that is stopped says nothing, one that died cannot be reached."""

    async def ask() -> str:
        await me.rpc(peer).identity()
        return "heard"

    return _started(me, ask())


def _started(me: Any, work: Any) -> Future[Any]:
    """Work that the worker's event loop does; all who wait look again when it is done."""
    started = asyncio.run_coroutine_threadsafe(work, me.loop.asyncio_loop)
    started.add_done_callback(_look_again)
    return started


def _arrived(told: Future[Any]) -> bool:
    """Whether what is done went well."""
    return not told.cancelled() and told.exception() is None and told.result() == "heard"


def _look_again(told: Future[Any]) -> None:
    """Have those who wait see what has become of it."""
    if not told.cancelled():
        told.exception()  # looked at, or asyncio would complain
    with _CHANGED:
        _CHANGED.notify_all()
