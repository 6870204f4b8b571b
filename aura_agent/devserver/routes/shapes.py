"""The parts that the bodies of several resources have in common."""

from datetime import datetime
from typing import Annotated

import msgspec

# Something to read: neither blank nor control characters alone. What one of Python and ECMAScript, by which clients
# read the published pattern, has in \s and the other hasn't is named besides.
_VISIBLE = r"[^\s\x00-\x1f\x7f-\x9f\ufeff]"
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=_VISIBLE)]
TeamId = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]
