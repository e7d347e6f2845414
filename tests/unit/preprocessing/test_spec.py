from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpukm.errors import ConfigError
from gpukm.preprocessing import (
    PCA,
    STEPS,
    Clip,
    L2Normalize,
    Log1p,
    MinMax,
    Preprocessing,
    Robust,
    Standardize,
    Step,
    parse_step,
    step_text,
    steps_help,
)


@pytest.mark.parametrize(
    "text, step",
    [
        ("standardize", Standardize()),
        (" minmax ", MinMax()),
        ("robust:columns=a", Robust(columns=("a",))),
        ("clip:lower=-3,upper=3", Clip(-3, 3)),
        ("clip: upper = 1e3 ", Clip(upper=1000)),
        ("log1p:columns=a|b", Log1p(columns=("a", "b"))),
        ("log1p:a,b", Log1p(columns=("a", "b"))),
        ("log1p: a | b", Log1p(columns=("a", "b"))),
        (r"log1p:a\|b", Log1p(columns=("a|b",))),
        ("pca:n_components=8", PCA(n_components=8)),
        ("l2", L2Normalize()),
        (r"log1p:columns=a\|b|c\,d|e\=f|g\\h", Log1p(columns=("a|b", "c,d", "e=f", "g\\h"))),
        (r"log1p:a\=1", Log1p(columns=("a=1",))),
        ("standardize:columns=month:day", Standardize(columns=("month:day",))),
    ],
)
def test_parse(text: str, step: Step) -> None:
    assert parse_step(text) == step


@pytest.mark.parametrize(
    "text, message",
    [
        ("standardise", "did you mean 'standardize'"),
        ("", "expected one of log1p, clip"),
        ("clip:lowr=3", "did you mean 'lower'"),
        ("clip:lower=abc", "lower is 'abc', expected a number"),
        ("clip:lower=1,lower=2", "lower twice"),
        ("clip:lower=3,upper=-3", "above upper"),
        ("clip:lower=nan", "finite number"),
        ("clip", "neither lower nor upper"),
        ("pca", "n_components"),
        ("pca:n_components=2.5", "expected a whole number"),
        ("pca:n_components=0", "whole number"),
        ("log1p:columns=a|a", "named twice"),
        ("log1p:columns=", "no column name"),
        ("standardize:kind=3", "unknown option 'kind'"),
        ("clip:lower=1=2", "two '='"),
    ],
)
def test_parse_errors_say_what_is_wrong_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_step(text)
    assert "\n" not in str(error.value)


names = st.lists(
    st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])).filter(lambda s: s == s.strip()),
    min_size=1,
    max_size=3,
    unique=True,
).map(tuple)
columns = st.none() | names
finite = st.floats(allow_nan=False, allow_infinity=False)
steps = (
    st.sampled_from([Log1p, Standardize, MinMax, Robust, L2Normalize]).flatmap(
        lambda kind: columns.map(lambda c: kind(columns=c))
    )
    | st.tuples(finite, finite, columns).map(lambda t: Clip(min(t[:2]), max(t[:2]), columns=t[2]))
    | st.tuples(st.integers(1, 10**6), columns).map(lambda t: PCA(n_components=t[0], columns=t[1]))
)


@given(steps)
def test_text_round_trip(step: Step) -> None:
    assert parse_step(step_text(step)) == step


@given(st.lists(steps, max_size=3), columns, names, st.sampled_from(["error", "drop", "mean"]))
def test_json_round_trip(
    some: list[Step], chosen: tuple[str, ...] | None, one_hot: tuple[str, ...], policy: str
) -> None:
    spec = Preprocessing(chosen, policy, one_hot, tuple(some), "float32")  # type: ignore[arg-type]
    assert Preprocessing.from_json(spec.to_json()) == spec


def test_every_step_is_documented() -> None:
    rows = steps_help()
    assert [form.split(":")[0] for form, _ in rows] == list(STEPS)
    for form, about in rows:
        assert len(about) > 20, form
        assert not about.startswith(form.split(":")[0])


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Preprocessing().dtype = "float32"  # type: ignore[misc]
    assert hash(Preprocessing(columns=["a"])) == hash(Preprocessing(columns=("a",)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"null_policy": "ignore"}, "null_policy is 'ignore', expected one of error, drop, mean"),
        ({"dtype": "float16"}, "expected one of auto, float32, float64"),
        ({"unknown_category": "x"}, "zeros, error"),
        ({"columns": ("a", "a")}, "'a' is named twice"),
        ({"columns": (3,)}, "no column name"),
        ({"columns": ()}, "no columns are chosen"),
        ({"steps": ("standardize",)}, "expected a Step"),
    ],
)
def test_bad_specs(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**options)  # type: ignore[arg-type]


def test_json_of_something_else() -> None:
    with pytest.raises(ConfigError, match="unknown preprocessing step 'fold'"):
        Preprocessing.from_json({"steps": [{"kind": "fold"}]})
    with pytest.raises(ConfigError, match="colour"):
        Preprocessing.from_json({"colour": 3})
