"""The former name of `horsies.testing.driver`, for one version."""

import sys

from . import driver

sys.modules[__name__] = driver
