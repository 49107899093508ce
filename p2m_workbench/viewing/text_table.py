"""Tables of words as one reads them: from the left, nothing cut off, addresses to click on, `code` as such."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

from IPython.display import HTML

CELL = "text-align: left; vertical-align: top; white-space: normal; overflow-wrap: break-word; padding: 4px 12px 4px 0"


def text_table(rows: Sequence[Mapping[str, object]]) -> HTML:
    """Rows of the same columns, whose names are the heads.

    >>> "<a href='https://a.b/c'>" in text_table([{"name": "set", "source": "https://a.b/c, page 2"}]).data
    True
    >>> "<code>p2m synth</code>" in text_table([{"source": "made by `p2m synth`"}]).data
    True
    """
    columns = list(rows[0]) if rows else []
    heads = "".join(f"<th style='{CELL}'>{html.escape(name)}</th>" for name in columns)
    lines = ["".join(f"<td style='{CELL}'>{_linked(str(row[name]))}</td>" for name in columns) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return HTML(f"<table style='width: auto; margin-left: 0'><tr>{heads}</tr>{body}</table>")


def _linked(text: str) -> str:
    def link(url: re.Match[str]) -> str:
        return f"<a href='{url[0]}'>{url[0].replace('/', '/<wbr>')}</a>"  # an address may break at its slashes

    linked = re.sub(r"https?://[^\s,;)]*[^\s,;).]", link, html.escape(text))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", linked)
