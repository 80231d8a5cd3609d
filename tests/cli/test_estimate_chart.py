"""`autoshard estimate --chart`."""

import xml.etree.ElementTree as ET
from importlib.util import find_spec

import pytest

from autoshard.cli._estimate_chart import write_chart
from autoshard.cost_model import Parallelism, chart_svg, estimate, sweep
from autoshard.cost_model.errors import InvalidFieldError
from autoshard.errors import UsageError

ONE = estimate("llama3-8b", "h100:8", Parallelism(dp=8, zero=3), global_batch=8)


def test_svg_is_a_file_of_its_own(tmp_path):
    write_chart(tmp_path / "one.svg", estimate=ONE)
    root = ET.fromstring((tmp_path / "one.svg").read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = "".join(root.itertext())
    assert "matmul" in words and "attention" in words
    found = sweep("llama3-8b", "h100:8", global_batch=16)
    write_chart(tmp_path / "many.svg", found=found)
    dots = ET.parse(tmp_path / "many.svg").getroot().iter("{http://www.w3.org/2000/svg}circle")
    # A dot for each, and a ring around the best.
    assert len(list(dots)) == len(found.ranked) + 1


def test_html_is_the_report(tmp_path):
    write_chart(tmp_path / "one.html", estimate=ONE)
    assert (tmp_path / "one.html").read_text().startswith("<!doctype html>")


def test_nothing_to_draw():
    with pytest.raises(InvalidFieldError, match="an estimate or a sweep"):
        chart_svg()


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"one of \.html, \.svg, \.png"):
        write_chart(tmp_path / "one.pdf", estimate=ONE)


def test_png(tmp_path):
    path = tmp_path / "one.png"
    if find_spec("matplotlib") is None:
        with pytest.raises(UsageError, match=r"autoshard\[charts\]"):
            write_chart(path, estimate=ONE)
        return
    write_chart(path, estimate=ONE)
    assert path.read_bytes()[:4] == b"\x89PNG"
