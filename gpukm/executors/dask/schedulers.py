"""Schedulers that run: their addresses, and whether one answers."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gpukm.errors import ExecutorError

if TYPE_CHECKING:
    from distributed import Client, Security

ADDRESS = re.compile(r"(tcp|tls)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/:@?#\[\]]+):(?P<port>[0-9]{1,5})/?")
#: How long a scheduler, or the file that names it, is waited for.
CONNECT_SECONDS = 5.0
#: How long it may take to answer.
ANSWER_SECONDS = 15.0
_CLOSE_SECONDS = 10.0


def scheduler_of(path: str) -> str:
    """The address in a scheduler file, which may be about to be written."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        reason = ""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            address = found.get("address") if isinstance(found, dict) else None
            if isinstance(address, str) and ADDRESS.fullmatch(address):
                return address
            reason = "holds no address of a scheduler"
        except FileNotFoundError:
            reason = "does not exist"
        except ValueError:
            reason = "is not JSON"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        if time.monotonic() > deadline:
            raise ExecutorError(
                f"the scheduler file {path} {reason}, after {CONNECT_SECONDS:g} s; start one by: "
                f"dask scheduler --scheduler-file {path}"
            )
        time.sleep(0.1)


def reach(address: str) -> None:
    """Open a connection and close it: the system says at once and exactly what Dask would only time out on."""
    found = ADDRESS.fullmatch(address)
    assert found is not None
    host, port = found["host"].strip("[]"), int(found["port"])
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
            return
        except socket.gaierror:
            raise ExecutorError(f"the host of {address} is not known; check its name") from None
        except OSError as error:
            if time.monotonic() < deadline and not isinstance(error, TimeoutError):
                time.sleep(0.2)  # it may be about to start
                continue
            reason = "nobody listens there" if isinstance(error, ConnectionRefusedError) else in_a_line(error)
            raise ExecutorError(
                f"no scheduler can be reached at {address}: {reason}, after {CONNECT_SECONDS:g} s; check the address "
                "and the firewall, or start one by: dask scheduler"
            ) from None


def greet(address: str, checked: Security | None) -> None:
    """Ask who is there: Dask itself waits for ever for an answer, and says little of certificates."""
    from distributed import Security, rpc

    async def ask() -> str:
        arguments = (checked or Security()).get_connection_args("client")
        async with rpc(address, connection_args=arguments) as remote:
            return str((await asyncio.wait_for(remote.identity(), ANSWER_SECONDS))["type"])

    try:
        with ThreadPoolExecutor(1) as pool:  # a notebook's thread has a loop already
            kind = pool.submit(asyncio.run, ask()).result()
    except TimeoutError:
        raise ExecutorError(
            f"what listens at {address} does not answer as a Dask scheduler within {ANSWER_SECONDS:g} s; is it one, "
            "and does it run?"
        ) from None
    except OSError as error:
        hint = "are its certificates signed by tls_ca, and does it take ours?"
        if not address.startswith("tls://"):
            hint = "is it one, and does it want tls://?"
        raise ExecutorError(f"{address} does not answer as a Dask scheduler ({in_a_line(error)}); {hint}") from None
    if kind != "Scheduler":
        raise ExecutorError(f"{address} is the address of a {kind}; give that of the scheduler")


def close(client: Client) -> None:
    """Close a client, also where its scheduler is gone."""
    with suppress(TimeoutError, OSError):
        client.close(timeout=_CLOSE_SECONDS)


def in_a_line(error: BaseException) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split()) or type(error).__name__
