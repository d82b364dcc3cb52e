"""Numbers as people read them."""


def count(number: float) -> str:
    """1234567 → '1.23M'."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.4g}"


def size(byte_count: float) -> str:
    """Bytes → '1.9 GiB'."""
    for unit, one in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(byte_count) >= one:
            return f"{byte_count / one:.3g} {unit}"
    return f"{byte_count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds → '2 h 14 min', '3 min 20 s', '8.4 s'."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
