"""The classic picture of next-token prediction: for every step the likeliest tokens with bars."""

from foretell.generation.engine import TokenEvent

BAR_WIDTH, TAIL_WIDTH = 24, 48


def explain(event: TokenEvent, step: int, so_far: str, chosen: str) -> str:
    """A few lines for one step: the end of the text so far, then one line a candidate, the chosen one marked.

    Probabilities are the model's own, before temperature and filters; a token that was drawn from below the list is added.
    """
    rows = [(a.text, a.probability, "→" if a.token == event.token else " ") for a in event.alternatives]
    if not any(mark == "→" for *_, mark in rows):
        rows.append((chosen, event.probability, "→"))
    width = max(len(text) for text, *_ in rows)
    tail = ("…" if len(so_far) > TAIL_WIDTH else "") + so_far[-TAIL_WIDTH:].replace("\n", "\\n")
    lines = [f"   {mark}  {text:<{width}}  {probability:.3f}  {bar(probability)}" for text, probability, mark in rows]
    return "\n".join([f"{step:>4}  {tail}", *lines])


def bar(share: float) -> str:
    """A bar of eighths: 0.5 → half of BAR_WIDTH."""
    eighths = round(share * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
