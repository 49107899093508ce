"""What stays of a 3D view when its kernel is gone."""

import html
import json
import re

from example_predictions import made_up

from p2m_workbench.viewing.kept_view import MOST, kept_view


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
    assert kept_view([]).data == ""
