"""What stays of a 3D view when its kernel is gone."""

import html
import json
import re

import pytest
from browser import open_page
from example_predictions import made_up

from p2m_workbench.viewing.kept_view import MOST, kept_note, kept_view


def test_it_holds_the_predictions_and_fetches_nothing():
    predictions = [made_up(rings=2, levels=3) for _ in range(3)]
    text = kept_view(predictions).data
    page = html.unescape(re.search(r'data-page="(.*?)"', text, re.S)[1])
    about = json.loads(re.search(r"<script>const about = (.*?);</script>", page, re.S)[1])
    assert [sample["name"] for sample in about["samples"]] == [prediction.name for prediction in predictions]
    assert all(sample["thumbnail"].startswith("data:image/jpeg;base64,") for sample in about["samples"])
    assert len(about["topologies"]) == 1
    assert not re.search(r'(src|href)="(?!data:)', text.replace(html.escape(page), ""))
    # Without scripts, as in a notebook that is not trusted, a picture is left.
    assert re.search(r'<img src="data:image/jpeg;base64,[^"]{1000,}"', text)


def test_of_many_some_are_kept_evenly():
    prediction = made_up(rings=2, levels=3)
    text = kept_view([prediction] * (3 * MOST)).data
    assert html.unescape(text).count('"thumbnail"') == MOST
    assert f"without a kernel, {MOST} of {3 * MOST}</summary>" in text
    assert "without a kernel</summary>" in kept_view([prediction]).data
    assert kept_view([]).data == ""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("widget", "shown"),
    [
        ("", True),  # a page without a kernel
        ('<div class="jupyter-widgets widget-container"></div>', False),
        ('<div class="jupyter-widgets widget-container jupyter-widgets-disconnected"></div>', True),
    ],
)
def test_a_note_stands_where_no_widget_is_alive(widget, shown):
    output = '<div class="jp-OutputArea"><div class="jp-OutputArea-child">{}</div><div>{}</div></div>'
    with open_page(offline=True) as page:
        page.set_content(
            output.format('<div class="widget-container"></div>', "")
            + output.format(widget, kept_note("a slider & more").data)
        )
        note = page.get_by_text("Run the notebook, and here stands a slider & more.")
        assert note.count() == 1
        assert note.is_visible() == shown
