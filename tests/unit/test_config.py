"""Settings: precedence, origins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpukm.config import SEMANTIC, Config, Settings, flag, load
from gpukm.errors import ConfigError


def resolve(flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, **more: object) -> Config:
    """Resolve against an empty environment."""
    return load(flags, environ=environ or {}, **more)  # type: ignore[arg-type]


def test_flags_win_over_variables_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "gpukm.toml"
    file.write_text("seed = 1\nmax_iter = 2\ntol = 0.5\n")
    config = resolve({"seed": 3}, {"GPUKM_SEED": "4", "GPUKM_MAX_ITER": "5"}, file=file)
    settings = config.settings
    assert (settings.seed, settings.max_iter, settings.tol, settings.metric) == (3, 5, 0.5, "euclidean")
    origins = {key: config.origins[key] for key in ("seed", "max_iter", "tol", "metric")}
    assert origins == {"seed": "--seed", "max_iter": "GPUKM_MAX_ITER", "tol": str(file), "metric": "default"}


def test_the_file_of_the_current_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve().settings.n_clusters is None
    (tmp_path / "gpukm.toml").write_text("n_clusters = 7")
    assert resolve().settings.n_clusters == 7
    (tmp_path / "other.toml").write_text("n_clusters = 9")
    assert resolve(environ={"GPUKM_CONFIG": "other.toml"}).settings.n_clusters == 9


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        resolve().settings.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a,b", ("a", "b")),
        (["a,b", "c"], ("a", "b", "c")),
        ('"x, y",z', ("x, y", "z")),
        ("", ()),
        (" a , b ", ("a", "b")),
    ],
)
def test_names_are_split_as_csv(value: object, expected: tuple[str, ...]) -> None:
    assert resolve({"columns": value}).settings.columns == expected


def test_steps_keep_their_commas() -> None:
    assert resolve({"step": ["clip:lower=-1,a,b", "standardize"]}).settings.step == ("clip:lower=-1,a,b", "standardize")
    assert resolve(environ={"GPUKM_STEP": "log1p:a,b; l2"}).settings.step == ("log1p:a,b", "l2")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"n_clusters": 0}, ["n_clusters is 0", "--n-clusters", "greater than or equal to 1"]),
        ({"n_init": "many"}, ["n_init is 'many'", "'auto'"]),
        ({"tol": float("nan")}, ["tol", "finite"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"backend": "cpp"}, ["backend is 'cpp'", "'cpu'"]),
        ({"null_policy": "ignore"}, ["null_policy", "'drop'"]),
        ({"columns": "a,b", "exclude": "b"}, ["column 'b'", "exclude"]),
        ({"columns": "a", "weight_column": "a"}, ["weight column"]),
        ({"columns": "a", "id_column": "a"}, ["id column"]),
        ({"maxiter": 3}, ["'maxiter'", "did you mean max_iter?"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(flags: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(flags)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n_cluster = 3", ["unknown key 'n_cluster'", "did you mean n_clusters?"]),
        ("seed = ", ["not TOML"]),
        ("seed = 'x'", ["seed is 'x'", "gpukm.toml"]),
        ("[train]\nseed = 1", ["unknown key 'train'"]),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "gpukm.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve(file=file)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no settings file"):
        resolve(file=tmp_path / "none.toml")


def test_unknown_variables_are_warned_about_and_the_others_left_alone() -> None:
    others = {"GPUKM_ISA": "avx2", "GPUKM_CACHE_DIR": "/tmp", "GPUKM_REQUIRE_NATIVE": "1", "PATH": "/bin"}
    config = resolve(environ={"GPUKM_TOLL": "1", "GPUKM_SEED": "", **others})
    assert len(config.warnings) == 1
    assert "GPUKM_TOLL" in config.warnings[0] and "GPUKM_TOL" in config.warnings[0].split("mean")[1]
    assert config.origins["seed"] == "default"


def test_every_setting_says_what_it_means_and_has_an_origin() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert flag(name).startswith("--")
    assert set(resolve().origins) == set(Settings.model_fields)


def test_settings_that_decide_the_result_are_told_apart() -> None:
    assert "seed" in SEMANTIC and "precision" in SEMANTIC
    assert not {"store", "backend", "threads", "memory_limit", "batch_rows", "checkpoint", "cluster", "tls_key"} & set(
        SEMANTIC
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"batch_size": 10}, "batch_size needs algorithm 'minibatch'"),
        ({"max_excess": 0.1}, "max_excess needs algorithm 'minibatch'"),
        ({"init": "breathing"}, "init 'breathing' needs algorithm 'minibatch'"),
        ({"algorithm": "minibatch", "checkpoint": "c"}, "saves no checkpoint"),
        ({"algorithm": "elkan"}, "algorithm is 'elkan'"),
    ],
)
def test_settings_of_one_algorithm_are_refused_with_the_other(flags: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(flags)
    assert resolve({"algorithm": "minibatch", "batch_size": 10, "max_excess": 0, "init": "breathing"}).settings
