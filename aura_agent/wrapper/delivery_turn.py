"""One delivery at a time in a store that no daemon serves: whoever delivers sends what others have stored meanwhile.

Hundreds of aura-runs at once would each load HTTP and look for the same pings. Here they wait for a lock, cheaply and
for a moment only. Who gets it and finds that all has been sent since its report was stored has nothing left to do.
"""

import _thread
import os
from fcntl import LOCK_EX, flock

from aura_agent.private_files import open_private
from aura_agent.wrapper.job import now

_PATIENCE_S = 2.0  # whoever is slower waits for a sick URL: others deliver beside it
_FILE = "delivering"


class DeliveryTurn:
    """The turn to deliver from the store in *directory*; it ends with the process."""

    def __init__(self, directory: str, wait_s: float) -> None:
        """Wait for the turn, for a part of *wait_s* and a moment at the most. Raises OSError, RuntimeError."""
        self._begun_ns = now()[0]
        self._file = open_private(os.path.join(directory, _FILE), os.O_RDWR)
        acquired = _thread.allocate_lock()
        acquired.acquire()
        _thread.start_new_thread(self._wait, (acquired,))
        self._held = acquired.acquire(timeout=min(_PATIENCE_S, wait_s / 4))

    def is_done_by_others(self, spool_path: str) -> bool:
        """Whether the report in *spool_path* was taken in, and since then nothing was left to send."""
        if not self._held or os.path.exists(spool_path):
            return False
        said = os.pread(self._file, 30, 0)
        return said.isdigit() and int(said) > self._begun_ns

    def end(self, *, is_empty: bool) -> None:
        """Delivery is over; *is_empty*: nothing is left that may be sent."""
        if self._held:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, b"%d" % now()[0] if is_empty else b"", 0)
            os.close(self._file)

    def _wait(self, acquired: "_thread.LockType") -> None:
        try:
            flock(self._file, LOCK_EX)
        except OSError:
            return
        acquired.release()
