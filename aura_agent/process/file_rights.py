"""Looking at files with the rights of the account that a job runs as, as the job itself will.

Root would see what lies below a directory that is closed to the job's user, and a message about it would tell.
Only the thread that looks changes, and only what it may do with files; the job's process becomes its user for good.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from aura_agent.process.account import Account
from aura_agent.process.failure import SpawnFailed
from aura_agent.process.kernel import (
    are_dumps_forbidden,
    forbid_dumps,
    knows_thread_groups,
    set_thread_file_ids,
    set_thread_groups,
)


@contextmanager
def file_rights_of(account: Account | None) -> Iterator[None]:
    """Within this, the thread reaches files as *account* does; None, or whom we are already: nothing changes.

    System calls only: what Python loads late, such as an encoding, may be out of the account's reach.

    Raises SpawnFailed: we may not become it.
    """
    if account is None or not account.switch or not knows_thread_groups():
        yield  # where the system call isn't known the look is ours, and the start is the user's all the same
        return
    ours = os.geteuid(), os.getegid(), os.getgroups()
    hides_memory = are_dumps_forbidden()
    try:
        try:
            set_thread_groups(account.groups)
            set_thread_file_ids(account.uid, account.gid)
        except OSError as problem:
            hint = "; the agent must run as root for that" if problem.errno == errno.EPERM else ""
            raise SpawnFailed(
                f"can't become user {account.name}: {problem.strerror}{hint}", error_number=problem.errno
            ) from problem
        yield
    finally:
        set_thread_file_ids(ours[0], ours[1])
        if sorted(os.getgroups()) != sorted(ours[2]):
            set_thread_groups(ours[2])
        if hides_memory:
            forbid_dumps()  # each change of the ids resets that for the process, to fs.suid_dumpable (proc(5))
