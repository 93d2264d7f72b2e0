"""The former name of `horsies.testing.state_space`, for one version."""

import sys

from . import state_space

sys.modules[__name__] = state_space
