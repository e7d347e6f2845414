"""Sources on services: a web server that signs its addresses, and S3 where s3fs and moto are installed."""

from __future__ import annotations

import importlib.util
import io
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpukm.errors import DataError
from gpukm.sources import open_source
from gpukm.sources.npy import NpySource
from gpukm.sources.parquet import ParquetTable
from tests.conformance.source import rows_of

X = np.random.Generator(np.random.Philox(4)).standard_normal((50, 3))
TABLE = pa.table({"x": X[:, 0], "n": range(50)})
SIGNATURE = "sig=0123456789abcdef"

needs_http = pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="aiohttp is not installed")
needs_s3 = pytest.mark.skipif(
    importlib.util.find_spec("s3fs") is None or importlib.util.find_spec("moto") is None,
    reason="s3fs or moto is not installed",
)


def content(name: str) -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".npy"):
        np.save(buffer, X)
    else:
        pq.write_table(TABLE, buffer, row_group_size=9)
    return buffer.getvalue()


class _Handler(BaseHTTPRequestHandler):
    """Serves ranges of two files to those who know the signature."""

    files: ClassVar[dict[str, bytes]] = {"/x.npy": content("x.npy"), "/x.parquet": content("x.parquet")}

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        data = self.files.get(path)
        if data is None or query != SIGNATURE:
            self.send_error(404 if data is None else 403)
            return
        begin, end = 0, len(data) - 1
        span = self.headers.get("Range")
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or end), end)
        self.send_response(206 if span else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end + 1 - begin))
        if span:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[begin : end + 1])

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@needs_http
def test_signed_web_addresses(web: str) -> None:
    npy = open_source(f"{web}/x.npy?{SIGNATURE}")
    assert isinstance(npy, NpySource) and npy.location == f"{web}/x.npy"
    assert np.concatenate([b.x for b in npy.batches(7)]).tobytes() == X.tobytes()
    table = open_source(f"{web}/x.parquet?{SIGNATURE}")
    assert isinstance(table, ParquetTable) and table.n_rows == 50
    assert [row["n"] for row in rows_of(table, ["n"], 4, start=20, stop=31)] == list(range(20, 31))


@needs_http
@pytest.mark.parametrize("name", ["x.parquet", "y.parquet", "x.npy"])
def test_refusals_of_a_web_server_hold_no_secrets(web: str, name: str) -> None:
    with pytest.raises(DataError) as caught:
        open_source(f"{web.replace('//', '//user:password@')}/{name}?{SIGNATURE}0")
    assert f"/{name}" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in (SIGNATURE, "password"))


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options: dict[str, Any] = {
        "key": "AKIAIOSFODNN7EXAMPLE",
        "secret": "wJalrXUtnFEMI/K7MDENG",
        "endpoint_url": f"http://{host}:{port}",
        "client_kwargs": {"region_name": "eu-west-1"},
    }
    import fsspec

    fs = fsspec.filesystem("s3", **options)
    fs.mkdir("sources")
    for name in ("m=1/x.parquet", "m=2/x.parquet", "x.npy"):
        fs.pipe(f"sources/{name}", content(name))
    yield options
    server.stop()


@needs_s3
def test_s3(s3: dict[str, Any]) -> None:
    table = pickle.loads(pickle.dumps(open_source("s3://sources/m=*/*.parquet", s3)))
    assert isinstance(table, ParquetTable) and table.n_rows == 100
    rows = rows_of(table, ["m", "n"], 8, start=40, stop=61)
    assert rows == [{"m": 1 + i // 50, "n": i % 50} for i in range(40, 61)]
    npy = open_source("s3://sources/x.npy", s3)
    assert isinstance(npy, NpySource)
    assert np.concatenate([b.x for b in npy.batches(7)]).tobytes() == X.tobytes()


@needs_s3
def test_errors_of_s3_hold_no_secrets_and_help(s3: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"did you mean s3://sources/x\.npy\?"):
        open_source("s3://sources/y.npy", s3)
    with pytest.raises(DataError) as caught:
        open_source("s3://no-such-bucket/y.npy", s3)
    assert "no-such-bucket" in str(caught.value)
    assert not any(s3[name] in str(caught.value) for name in ("key", "secret"))
