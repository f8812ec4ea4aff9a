"""Markdown as HTML that needs no network: formulas as MathML, pictures inside."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

_TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)


def markdown_to_html(context: Mapping[str, Any], source: str) -> str:
    """Convert a cell's Markdown to HTML.

    Formulas become MathML, and pictures become part of the page. Links between notebooks become
    links between reports.

    Args:
        context: Context of the template that calls this filter: the cell, and the folder of its
            notebook.
        source: Markdown.
    """
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    renderer = IPythonRenderer(
        escape=False,
        exclude_anchor_links=True,
        embed_images=True,
        attachments=context["cell"].get("attachments", {}),
        path=context["resources"]["metadata"]["path"],
    )
    link = renderer.link
    renderer.inline_math = lambda tex: formula_to_mathml(tex, "inline")
    renderer.block_math = lambda tex: formula_to_mathml(tex, "block")
    renderer.latex_environment = lambda name, body: formula_to_mathml(
        f"\\begin{{{name}}}{body}\\end{{{name}}}", "block"
    )
    renderer.link = lambda text, url, title=None: link(text, report_url(url), title)
    page = MarkdownWithMath(renderer=renderer).render(source)
    return _TABLE.sub(r'<div class="wide">\g<0></div>', page)  # a wide table scrolls by itself


def report_url(url: str) -> str:
    """Return a link of a notebook as seen from its report's folder.

    Another notebook becomes its report, and a file's path is adapted.

    Example:
        >>> report_url("02_non_iid.ipynb#drift")
        '../02_non_iid/report.html#drift'
        >>> report_url("../README.md")
        '../../notebooks/../README.md'
    """
    if re.match(r"[a-z]+:|[/#]", url):
        return url
    report = re.sub(r"^(?:\./)?(\d\d_\w+)\.ipynb(?=#|$)", r"../\1/report.html", url)
    return report if report != url else f"../../notebooks/{url}"


def formula_to_mathml(tex: str, display: str) -> str:
    """Return a formula as MathML, or its source where it cannot be converted.

    Example:
        >>> "<msub>" in formula_to_mathml("w_t", "inline")
        True
    """
    from latex2mathml.converter import convert

    # latex2mathml knows the starred environments and not the inner ones
    tex = re.sub(r"\\(begin|end)\{(?:aligned|align|split)\}", r"\\\1{align*}", tex)
    try:
        formula = convert(tex, display=display)
    except Exception:  # it raises whatever its parser meets; the reader still gets the source
        formula = f'<code class="tex">{html.escape(tex)}</code>'
    return f'<span class="formula">{formula}</span>' if display == "block" else formula
