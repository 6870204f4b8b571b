"""Whether a shell would run a file that the kernel can't execute (ENOEXEC): a script without ``#!``, or a binary.

bash (``check_binary_file`` in general.c) refuses an ELF file and a NUL in the first line; dash 0.5.12 refuses any
control character there but white space, SO, SI and ESC. Both look at 128 bytes. What one of them refuses counts as
a binary: /bin/sh would run its bytes as commands, and the last of them might succeed.
"""

import os

FORMAT_ERROR = "cannot execute binary file: Exec format error"
_SAMPLE_BYTES = 128
_CONTROL = frozenset((*range(9), *range(16, 27), *range(28, 32), 127))


def is_script(sample: bytes) -> bool:
    """Whether a shell would run a file that begins with *sample*. An empty file is a script that does nothing."""
    sample = sample[:_SAMPLE_BYTES]
    if sample.startswith(b"\x7fELF") or (sample.startswith(b"#!") and 0 in sample):
        return False
    return _CONTROL.isdisjoint(sample.partition(b"\n")[0])


def is_script_file(path: str) -> bool:
    """Whether a shell would run the file *path*. Raises OSError: it can't be read."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us up
    try:
        return is_script(os.read(file, _SAMPLE_BYTES))
    finally:
        os.close(file)
