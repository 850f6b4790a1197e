"""What a test needs and this machine lacks."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def absent(why: object) -> NoReturn:
    """Skip on a laptop, with the reason; fail in CI, where it must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(why))
    pytest.skip(str(why))
