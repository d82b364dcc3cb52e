"""The classic picture of next-token prediction: for every step the likeliest tokens with bars."""

from foretell.generation.request import TokenEvent

BAR_WIDTH = 24


def explain(event: TokenEvent, step: int, so_far: str, chosen: str) -> str:
    """A few lines for one step: the end of the text so far, then one line a candidate, the chosen one marked.

    Probabilities are the model's own, before temperature and filters; a token that was drawn from below the list is added.
    """
    tail = so_far[-48:].replace("\n", "\\n")
    rows = [(a.text, a.probability, a.token == event.token) for a in event.alternatives]
    if not any(is_chosen for *_, is_chosen in rows):
        rows.append((chosen, event.probability, True))
    width = max(len(text) for text, *_ in rows)
    lines = [f"{step:>4}  …{tail}" if len(so_far) > 48 else f"{step:>4}  {tail}"]
    lines += [
        f"   {'→' if marked else ' '}  {text:<{width}}  {probability:.3f}  {bar(probability)}" for text, probability, marked in rows
    ]
    return "\n".join(lines)


def bar(share: float) -> str:
    """A bar of eighths: 0.5 → half of BAR_WIDTH."""
    eighths = round(share * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
