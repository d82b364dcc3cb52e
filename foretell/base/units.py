"""Numbers as people read them."""


def count(number: float) -> str:
    """1234567 → '1.23M'."""
    return _scaled(number, 1000, "", "k", "M", "B", "T")


def size(byte_count: float) -> str:
    """Bytes → '1.9 GiB'."""
    return _scaled(byte_count, 1024, " B", " KiB", " MiB", " GiB", " TiB")


def duration(seconds: float) -> str:
    """Seconds → '2 h 14 min', '3 min 20 s', '8.4 s'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{seconds:.2g} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _scaled(number: float, step: int, *units: str) -> str:
    while abs(number) >= 999.5 and units[1:]:  # three digits of more would read 1e+03
        number, units = number / step, units[1:]
    return f"{number:.3g}{units[0]}"
