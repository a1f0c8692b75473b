"""The page: well-formed, self-contained, escaped, the same every time, and it says what the run came to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import report_samples as samples

from pipeline.report import render, to_json

VOID = {"meta", "br", "hr", "img", "link", "input"}
FETCHING = {"src", "href", "action", "data", "poster", "srcset", "formaction"}


class Page(HTMLParser):
    """Collects a page's tags and texts, and fails on a tag that closes another."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render(make()) for name, make in samples.SAMPLES.items()}


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_every_tag_is_closed_and_ids_are_unique(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_nothing_is_loaded_from_anywhere(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "img"}
        for key in FETCHING & attributes.keys():
            assert (attributes[key] or "").startswith("#")
        for reference in re.findall(r"url\(([^)]*)\)", str(attributes.get("clip-path", ""))):
            assert reference.startswith("#")
    assert "http://" not in pages[name]
    assert "https://" not in pages[name]
    assert "@import" not in pages[name]


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_references_within_figures_lead_somewhere(pages: dict[str, str], name: str) -> None:
    ids = set(re.findall(r' id="([^"]*)"', pages[name]))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', pages[name]))
    assert used <= ids
    assert set(re.findall(r'aria-labelledby="([^"]*)"', pages[name])) <= ids


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_a_page_can_be_read_aloud(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert next(page.all("html"))["lang"] == "en"
    assert "<title>" in pages[name]
    assert all(attributes.get("scope") in {"row", "col"} for attributes in page.all("th"))
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in page.all("svg"))


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_the_same_summary_gives_the_same_bytes(pages: dict[str, str], name: str) -> None:
    assert render(samples.SAMPLES[name]()) == pages[name]


def test_figures_use_the_colours_of_the_page_only(pages: dict[str, str]) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", pages["met"], re.DOTALL))
    assert figures
    assert re.findall(r"#[0-9a-f]{6}\b", figures) == []


def test_the_json_of_a_summary_gives_the_same_page(pages: dict[str, str]) -> None:
    assert render(json.loads(to_json(samples.met()))) == pages["met"]


def test_a_met_run_says_what_was_won_lost_and_left_running(pages: dict[str, str]) -> None:
    text = Page(pages["met"]).text
    for said in (
        "2.1× faster on this device, 0.3 points less accurate, running now as generation 3",
        "Budgets met",
        "14.2 ms",
        "7.11 ms (50%)",
        "6.74 ms",
        "91.41 %",
        "98.31 %",
        "0.371 MB",
        "already seen the validation images",
        "refused: needs 662 runs, had 240",
        "unsteady",
        "no power sensor found",
        "its outputs are the classes",
        "41 min 11 s",
    ):
        assert said in text


def test_figures_carry_the_key_numbers(pages: dict[str, str]) -> None:
    labels = [
        str(attributes["aria-label"]).replace("\u00a0", " ") for attributes in Page(pages["met"]).all("svg")
    ]
    accuracy, predicted, widths, times = labels
    assert "recovered 1 6.74 ms, 98.31 %" in accuracy
    assert "Budget 7.11 ms. Accuracy floor 97.92 %." in accuracy
    assert "fit 1: 7.62 ms, table −8.8 %, after feedback −7.0 %" in predicted
    assert "6 of 20 layers are narrower" in widths
    assert "22.3 ms and 15.6 ms" in times


def test_candidates_far_below_the_floor_stand_apart_with_their_accuracy(pages: dict[str, str]) -> None:
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", pages["met"])
    assert "fit 2 10.02\u00a0% ↓" in texts
    assert "recovered 1 98.31\u00a0%" in texts


def test_an_infeasible_run_names_the_budget_in_the_way_and_the_nearest(pages: dict[str, str]) -> None:
    text = Page(pages["infeasible"]).text
    assert "latency is in the way" in text
    assert "The nearest candidate, fit 3, reaches 5.43 ms where the budget is 3.00 ms" in text
    assert "The device keeps the model it had" in text
    assert "not trained after pruning" in text
    assert "generation" not in text


def test_a_run_below_the_floor_names_accuracy(pages: dict[str, str]) -> None:
    text = Page(pages["inaccurate"]).text
    assert "accuracy is in the way" in text
    assert "reaches 94.11 % on validation where the floor is 97.92 %" in text


def test_an_early_failure_still_makes_a_page(pages: dict[str, str]) -> None:
    text = Page(pages["failed"]).text
    assert "The run failed before anything was measured" in text
    assert "The agent on 'kitchen-pi' stopped while it measured 'baseline'." in text
    assert "None" not in text
    assert "<svg" not in pages["failed"]


def test_a_running_one_says_so_and_claims_no_result(pages: dict[str, str]) -> None:
    text = Page(pages["running"]).text
    assert "The run is not finished" in text
    assert "2 models measured so far" in text
    assert "faster" not in text


def test_hostile_names_stay_text(pages: dict[str, str]) -> None:
    text = pages["hostile"]
    assert not list(Page(text).all("script"))
    assert "<script" not in text
    assert "&lt;scrip" in "".join(re.findall(r"<text.*?</text>", text))
    assert "\x00" not in text
    assert "\u202e" not in text
    text.encode()


def test_replayed_measurements_are_called_so() -> None:
    full = samples.met()
    replayed = [
        replace(each, measurement=samples.measurement(1.0, replayed_from="old")) for each in full.candidates
    ]
    assert "replayed from run old" in render(replace(full, candidates=tuple(replayed)))


def test_a_network_with_many_layers_keeps_its_plots_in_bounds() -> None:
    full = replace(samples.met(), layers=samples.resnet_layers(110))
    text = Page(render(full)).text
    assert "All 110 layers as a table" in text
    assert "The plots show the first 60 layers" in text
    assert text.count("layer3.17.conv2") == 1


def test_a_budget_without_energy_sensor_is_not_measured() -> None:
    full = samples.met()
    budget = replace(
        full.budgets[0],
        resource="energy",
        unit="mJ",
        stated="3 mJ",
        limit=3.0,
        baseline=None,
        reached=None,
        met=None,
    )
    text = Page(render(replace(full, budgets=(budget,)))).text
    assert "Energy not measured 3.00 mJ not measured not measured" in text
