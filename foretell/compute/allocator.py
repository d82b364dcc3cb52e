"""Memory once given to this process stays with it: a training step asks for the same large blocks again and again.

glibc maps a block above 32 MiB anew each time and gives it back at once, so that the kernel has to zero every page of it in every
step: a third of the time of a step at 124M parameters.
"""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # <malloc.h>


def keep_memory() -> bool:
    """Have malloc reuse large blocks from here on; return whether it will. Only glibc has to be told; elsewhere nothing happens."""
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False
