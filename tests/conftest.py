"""What tests of all kinds share."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

# How long an example takes says nothing on a machine that does other work, too; pytest's own limit ends what hangs.
hypothesis.settings.register_profile("gpukm", deadline=None)
hypothesis.settings.load_profile("gpukm")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 that is a thread."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
