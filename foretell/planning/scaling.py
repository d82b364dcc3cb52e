"""What can be expected of so many parameters and so much text: one scaling law and its constants (no torch).

L = E + A/N^α + B/D^β (Hoffmann et al. 2022) with the constants of Besiroglu et al. 2024 (arXiv 2404.10102), which are those of
large models on web text with a vocabulary of 32,000: good for telling which of two plans does better, not for the loss that
another text will show. Text that is read again counts less and less: Muennighoff et al. 2023 (arXiv 2305.16264), equation 5.
"""

import math

IRREDUCIBLE, OF_PARAMETERS, OF_TOKENS = 1.8172, (482.01, 0.3478), (2085.43, 0.3658)  # E; A, α; B, β
REPETITION_HALF_LIFE = 15.4  # R*
TOKENS_PER_PARAMETER = 20  # trains best for its FLOPs (Hoffmann et al. 2022, table 3)

FITTED_FROM = 44e6  # parameters of the smallest model that the constants were fitted to


def expected_loss(parameters: int, tokens: float, tokens_of_text: float = math.inf) -> float:
    """Nats per token after learning from `tokens`, drawn from `tokens_of_text` different ones."""
    unique = min(tokens, tokens_of_text)
    repeats = max(0.0, tokens / tokens_of_text - 1)
    effective = unique * (1 + REPETITION_HALF_LIFE * (1 - math.exp(-repeats / REPETITION_HALF_LIFE)))
    (a, alpha), (b, beta) = OF_PARAMETERS, OF_TOKENS
    return IRREDUCIBLE + a / math.pow(parameters, alpha) + b / math.pow(effective, beta)


def advice(tokens_per_parameter: float) -> str:
    """What the ratio of tokens to parameters says."""
    times = tokens_per_parameter / TOKENS_PER_PARAMETER
    if times < 0.5:
        return "few: a smaller model would do better in the same time"
    return (
        "about how FLOPs are best spent"
        if times < 2
        else "many: a larger model would do better in the same time, but cost more to use"
    )
