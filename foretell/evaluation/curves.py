"""The curves of a run as SVG, drawn with matplotlib for a page without network."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN, HELD_OUT = "#3b6ea8", "#c2571a"  # told apart by colour-blind readers too; held-out also has markers


def loss_curve(metrics: list[dict[str, Any]]) -> str:
    """Training and held-out loss over tokens."""

    def draw(axes: "Axes") -> None:
        axes.plot([r["tokens"] for r in metrics], [r["loss"] for r in metrics], color=TRAIN, linewidth=1, label="training")
        scored = [r for r in metrics if "held_out_loss" in r]
        axes.plot(
            [r["tokens"] for r in scored],
            [r["held_out_loss"] for r in scored],
            "o-",
            color=HELD_OUT,
            markersize=4,
            label="held-out",
        )
        axes.set_ylabel("loss (nats per token)")
        axes.legend(frameon=False)

    return _svg(draw)


def speed_curve(metrics: list[dict[str, Any]]) -> str:
    """Tokens per second and the learning rate over tokens."""

    def draw(axes: "Axes") -> None:
        tokens = [r["tokens"] for r in metrics]
        axes.plot(tokens, [r["tokens_per_second"] for r in metrics], color=TRAIN, linewidth=1)
        axes.set_ylabel("tokens per second", color=TRAIN)
        axes.set_ylim(bottom=0)
        rate = axes.twinx()
        rate.plot(tokens, [r["learning_rate"] for r in metrics], color=HELD_OUT, linewidth=1, linestyle="--")
        rate.set_ylabel("learning rate", color=HELD_OUT)
        rate.spines[["top"]].set_visible(False)

    return _svg(draw)


def _svg(draw: Any) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.set_xlabel("tokens learned from")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
