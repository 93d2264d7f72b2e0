"""The former name of `horsies.testing.state_machine`, for one version."""

import sys

from . import state_machine

sys.modules[__name__] = state_machine
