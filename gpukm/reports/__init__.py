"""Reports: what a snapshot holds, for people (terminal, HTML, Markdown) and for programs (JSON)."""

from __future__ import annotations

from gpukm.reports.data import Report
from gpukm.reports.html import render_html
from gpukm.reports.json import render_json
from gpukm.reports.markdown import render_markdown
from gpukm.reports.terminal import render_terminal

__all__ = ["Report", "render_html", "render_json", "render_markdown", "render_terminal"]
