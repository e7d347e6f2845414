"""Reports as text: whole, escaped, and of bounded size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from gpukm.reports import Report, render_html, render_json, render_markdown, render_terminal

VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Elements and text of a page; complains about tags that do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(source)
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append((self.stack[-1] if self.stack else "", data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self, tag: str | None = None) -> str:
        return " ".join(
            " ".join(t.split()) for name, t in self.text if tag in (None, name) and name not in ("style", "script")
        )


def test_html_is_whole_and_needs_nothing_from_outside(snapshot: Callable[..., Any]) -> None:
    source = render_html(Report.from_snapshot(snapshot()))
    page = Page(source)
    assert not any("src" in a or "srcset" in a for _, a in page.elements)
    assert "@import" not in source and "url(" not in source and "http://" not in source and "https://" not in source
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "img", "iframe", "object", "embed", "use", "image"})
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a["href"] for a in page.named("a")]
    assert targets and all(str(t)[1:] in ids for t in targets)
    assert all(a.get("role") == "img" and a.get("aria-label") for a in page.named("svg") if "aria-hidden" not in a)
    assert all(a.get("scope") in ("row", "col") for a in page.named("th"))
    for word in ("dep_delay", "flights", "ab" * 32, "flights.parquet", "1.5", "Variance explained", "silhouette"):
        assert word in page.said() or word in page.said().lower()


def test_html_shows_every_cluster_and_value(snapshot: Callable[..., Any]) -> None:
    s = snapshot(scale=100.0)
    page = Page(render_html(Report.from_snapshot(s)))
    badges = [t for tag, t in page.text if tag == "span" and t.isdigit()]
    assert set(badges) == {"0", "1", "2", "3"}
    for count in s.tensors["counts"].tolist():
        assert f"{count:,}" in page.said("td")


def test_html_escapes_every_name(hostile: Any) -> None:
    source = render_html(Report.from_snapshot(hostile))
    page = Page(source)
    assert len(page.named("script")) == 1
    assert "<script>alert" not in source
    assert '<script>alert("x")</script>&|`' in page.said("h1") + page.said("title")
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_svg_attributes_are_escaped() -> None:
    from gpukm.reports.svg import element

    assert str(element("text", '<b a="1">', title='"><script>')) == (
        '<text title="&#34;&gt;&lt;script&gt;">&lt;b a=&#34;1&#34;&gt;</text>'
    )


def test_html_of_a_large_model_stays_small(snapshot: Callable[..., Any]) -> None:
    s = snapshot(k=1000, names=[f"embedding[{i}]" for i in range(768)])
    s.result["history"] = [{"iteration": i, "inertia": 1e9 / i, "shift": 1.0} for i in range(1, 5000)]
    source = render_html(Report.from_snapshot(s))
    assert len(source.encode()) < 1_000_000
    said = Page(source).said()
    assert "of 1,000" in said and "of 768" in said and "850 smaller clusters" in said


@pytest.mark.parametrize("k", [1, 2, 24, 25, 61])
def test_every_format_of_every_size(snapshot: Callable[..., Any], k: int) -> None:
    counts = np.arange(k) ** 3
    counts[-1] += 1
    s = snapshot(k=k, counts=counts)
    report = Report.from_snapshot(s)
    source = render_html(report)
    Page(source)
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", source)
    assert str(k) in render_terminal(report)
    assert "\n## Clusters\n" in render_markdown(report)
    json.loads(render_json(report))


def test_odd_models(snapshot: Callable[..., Any]) -> None:
    s = snapshot(k=3, counts=np.array([0, 0, 4]))
    s.tensors.update(
        variance=np.zeros(3),
        histogram_edges=np.full((3, 19), np.inf),
        radius_quantiles=np.zeros((3, 5)),
        inertia=np.zeros(3),
    )
    s.result.update(history=[])
    s.provenance = {}
    report = Report.from_snapshot(s)
    assert "no rows" in Page(render_html(report)).said()
    assert "no rows" in render_terminal(report)
    assert "no rows" in render_markdown(report)


def test_json_is_versioned_and_holds_the_report(snapshot: Callable[..., Any]) -> None:
    report = Report.from_snapshot(snapshot())
    loaded = json.loads(render_json(report), parse_constant=lambda name: pytest.fail(name))
    assert loaded["schema"] == "gpukm.report/1"
    assert len(loaded["clusters"]) == 4
    assert loaded["clusters"][0]["count"] == report.clusters[0].count
    assert loaded["heat_map"]["z"] == [list(row) for row in report.heat_map.z]
    assert loaded["provenance"]["seconds"] == {"fit": 1.5}


def test_json_has_null_for_what_is_not_finite(snapshot: Callable[..., Any]) -> None:
    s = snapshot()
    s.provenance = {"speed": float("inf"), "when": np.datetime64("2026-01-01")}
    loaded = json.loads(render_json(Report.from_snapshot(s)))
    assert loaded["provenance"] == {"speed": None, "when": "2026-01-01"}


def test_terminal_says_the_same_with_and_without_colour(snapshot: Callable[..., Any]) -> None:
    report = Report.from_snapshot(snapshot())
    plain = render_terminal(report, width=90)
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= 90
    coloured = render_terminal(report, width=90, color=True)
    assert "\x1b[" in coloured
    assert [x.rstrip() for x in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines()] == plain.splitlines()


def test_terminal_obeys_no_control_characters(hostile: Any) -> None:
    text = render_terminal(Report.from_snapshot(hostile))
    assert "\x1b" not in text
    assert '<script>alert("x")</script>' in text


def test_markdown_escapes_every_name(hostile: Any) -> None:
    text = render_markdown(Report.from_snapshot(hostile))
    assert "<script" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert widths == {7, 8}
    assert sum(line.startswith("#") for line in text.splitlines()) == 4
