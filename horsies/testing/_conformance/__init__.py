"""The parts of the suite that every broker passes; `horsies.testing.broker` puts them together."""

import pytest

# Before they are imported, so that a failure shows what was compared.
pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("sending", "claiming", "ending", "noticing", "looking_after"))
)
