"""The parts that the bodies of several resources have in common."""

from typing import Annotated

import msgspec

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"\S")]
TeamId = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
