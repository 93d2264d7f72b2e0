"""The list of mutations is one of the code that is there."""

from __future__ import annotations

import pytest

from .run import ROOT, mutated, mutations


@pytest.mark.parametrize("broker", ["postgres", "sqlite"])
def test_each_mutation_breaks_something_that_is_there(broker: str) -> None:
    found = list(mutations(broker))
    assert len(found) > 100
    for mutation in found:
        text = (ROOT / "horsies" / "plugins" / broker / mutation.file).read_text()
        assert mutated(mutation, text) != text, mutation.title
