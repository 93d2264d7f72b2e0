"""The parts of the suite that every broker passes; `horsies.testing.broker` puts them together."""

import pytest

# Before they are imported, so that a failure shows what was compared.
parts = (
    "sending",
    "claiming",
    "ending",
    "noticing",
    "capping",
    "looking_after",
    "scheduling",
    "workflows",
    "advancing",
)
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in parts))
