"""The former name of `horsies.testing.invariants`, for one version."""

import sys

from . import invariants

sys.modules[__name__] = invariants
