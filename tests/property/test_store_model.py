"""A store behaves as a dictionary of lists, through any sequence of operations and failures between them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from gpukm.errors import SnapshotNotFoundError
from gpukm.snapshots import Store
from tests.conformance.store import make_content, nearest, same

_models = st.sampled_from(["a", "B-2", "flights.2013"])
_seeds = st.integers(0, 5)


class StoreMachine(RuleBasedStateMachine):
    """The model is ``{model: [seed of the snapshot, ...]}``."""

    ids: Bundle[tuple[str, str]] = Bundle("ids")

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.store = Store.open(self.root, create=True)
        self.expected: dict[str, list[int]] = {}
        self.seed_of: dict[str, int] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @rule(target=ids, model=_models, seed=_seeds)
    def publish(self, model: str, seed: int) -> tuple[str, str]:
        ref = self.store.publish(model, make_content(seed), {"seed": seed}, labeller=nearest)
        self.expected.setdefault(model, []).append(seed)
        assert ref.number == len(self.expected[model])
        assert self.seed_of.setdefault(ref.id, seed) == seed
        return model, ref.id

    @rule()
    def reopen(self) -> None:
        self.store = Store.open(self.root, create=True)

    @rule(model=_models, seed=_seeds)
    def crash_before_the_commit(self, model: str, seed: int) -> None:
        """What a killed writer leaves: blobs and half a file, no record."""
        side = Store.open(self.root, create=True)
        side.publish("crashed", make_content(seed), labeller=nearest)
        shutil.rmtree(self.root / "models/crashed")
        (self.root / "tmp" / f"left-by-{model}").write_bytes(b'{"format":')

    @rule(model=_models, data=st.data())
    def load(self, model: str, data: st.DataObject) -> None:
        seeds = self.expected.get(model, [])
        number = data.draw(st.integers(0, len(seeds) + 1))
        if 1 <= number <= len(seeds):
            snapshot = self.store.load(model, number, labeller=nearest)
            assert same(snapshot, make_content(seeds[number - 1]))
            assert snapshot.provenance == {"seed": seeds[number - 1]}
        else:
            with pytest.raises(SnapshotNotFoundError):
                self.store.load(model, number, labeller=nearest)

    @rule(published=ids, length=st.integers(16, 64))
    def load_by_id(self, published: tuple[str, str], length: int) -> None:
        model, snapshot_id = published
        snapshot = self.store.load(model, snapshot_id[:length], labeller=nearest)
        assert snapshot.id == snapshot_id
        latest = len(self.expected[model]) - self.expected[model][::-1].index(self.seed_of[snapshot_id])
        assert snapshot.number == latest

    @invariant()
    def matches(self) -> None:
        assert self.store.models() == sorted(self.expected)
        for model, seeds in self.expected.items():
            assert [record.provenance["seed"] for record in self.store.records(model)] == seeds

    @rule()
    def verify(self) -> None:
        assert self.store.verify(labeller=nearest) == []


TestStoreModel = StoreMachine.TestCase
TestStoreModel.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
