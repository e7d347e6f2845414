"""The report for programs: one JSON object whose format is versioned."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from gpukm.reports.data import FORMAT, Report


def report_fields(report: Report) -> dict[str, Any]:
    """The report as JSON types; numbers that are not finite become null."""
    fields = _plain(asdict(report))
    return {"schema": f"gpukm.report/{FORMAT}", **fields}


def render_json(report: Report) -> str:
    """The report as one JSON object, ``"schema": "gpukm.report/1"``, ending with a newline."""
    return json.dumps(report_fields(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Turn tuples into lists and what JSON does not know into what it does."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
