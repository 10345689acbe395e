"""Times of a video as people write them."""


def clock_time(seconds: float) -> str:
    """Write a time as 1:02:03.4, 2:03 or 0:03.5; tenths of a second are left out if they are 0."""
    whole, tenths = divmod(round(10 * seconds), 10)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
    return f"{text}.{tenths}" if tenths else text
