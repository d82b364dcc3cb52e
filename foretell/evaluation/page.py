"""Pages that open without network: templates filled with escaped text, and figures as SVG within them. Torch-free."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(template: str, values: dict[str, Any]) -> str:
    """A template of this room, filled; in a page whatever others wrote is shown as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    folder = PackageLoader("foretell.evaluation", "templates")
    pages = Environment(loader=folder, undefined=StrictUndefined, autoescape=select_autoescape(["html.jinja"]), trim_blocks=True)
    return pages.get_template(template).render(values) + "\n"


def svg(figure: "Figure") -> str:
    """The <svg> element of a figure."""
    figure.savefig(buffer := io.StringIO(), format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
