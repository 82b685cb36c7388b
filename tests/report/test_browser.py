"""The page in Chromium: `make test-browser`. Screenshots are written to `build/screenshots`."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.chromium import Chromium

pytestmark = pytest.mark.browser
SHOTS = ROOT / "build" / "screenshots"
OPENS_IN_S = 2.0
WIDTHS = {"phone": 375, "desk": 1440}
PICTURE = "document.querySelector('.chart[data-section={}] svg').outerHTML"
RENDERED = "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 60)))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    SHOTS.mkdir(parents=True, exist_ok=True)
    started = Chromium(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def opened(browser: Chromium, page: Path):
    """Open the page with every chart drawn; after the test, check that it had no errors and no other requests."""
    browser.open(page.as_uri(), WIDTHS["desk"])
    _drawn(browser)
    yield browser
    assert browser.errors == []
    assert set(browser.requests) == {page.as_uri()}


def _drawn(browser: Chromium) -> int:
    return int(browser.wait("document.documentElement.dataset.drawn"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_opens_fast_whole_and_no_wider_than_the_window(browser, page, width, dark):
    before = browser.busy()
    browser.open(page.as_uri(), width, dark=dark)
    charts = browser.run("document.querySelectorAll('.chart').length")
    assert _drawn(browser) == charts == 10
    assert browser.busy() - before < OPENS_IN_S
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("[...document.querySelectorAll('.chart')].every((c) => c.querySelector('svg path'))")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)"
    )
    assert browser.errors == []
    assert set(browser.requests) == {page.as_uri()}
    browser.picture(SHOTS / f"report-{width}-{'dark' if dark else 'light'}.png")


@pytest.mark.parametrize(
    ("control", "value", "charts"),
    [
        ("history", "lab/big", ["newest", "map", "profiles", "dimension", "loss", "random"]),
        ("text", "random-uniform", ["profile", "growth", "multiples", "map", "profiles", "dimension", "loss"]),
        ("estimator", "id_mle", ["multiples", "newest", "dimension", "loss"]),
        ("estimator", "id_authors", ["multiples", "newest", "dimension", "loss"]),
    ],
)
def test_every_switch_changes_its_pictures(opened, control, value, charts):
    before = {name: opened.run(PICTURE.format(name)) for name in charts}
    _choose(opened, control, value)
    unchanged = [name for name in charts if opened.run(PICTURE.format(name)) == before[name]]
    assert not unchanged
    opened.picture(SHOTS / f"report-{control}-{value.replace('/', '-')}.png")


def _choose(browser: Chromium, control: str, value: str) -> None:
    browser.run(f"""(() => {{
        const radio = document.querySelector('[name={control}][value="{value}"]');
        if (radio) return radio.click();
        const list = document.querySelector('select[name={control}]');
        list.value = '{value}';
        list.dispatchEvent(new Event('change', {{ bubbles: true }}));
    }})()""")
    for _ in range(10):
        browser.run(RENDERED)


def test_the_theme_can_be_switched_and_every_chart_with_it(opened):
    before = opened.run(PICTURE.format("loss"))
    opened.run("document.querySelector('[name=theme]').click()")
    opened.wait("document.querySelector('[name=theme]').textContent === 'Light theme'")
    for _ in range(20):
        opened.run(RENDERED)
    assert opened.run(PICTURE.format("loss")) != before
    assert opened.run("document.documentElement.dataset.theme") == "dark"


def test_sentences_and_queries_follow_the_switches(opened):
    shown = "[...document.querySelectorAll('.says')].filter((line) => !line.hidden).map((line) => line.innerText)"
    query = "document.querySelector('code[data-section=map]').textContent"
    before, query_before = opened.run(shown), opened.run(query)
    _choose(opened, "history", "lab/big")
    after = opened.run(shown)
    assert before != after
    assert len(after) >= 5
    assert "model = 'lab/bert'" in query_before
    assert "model = 'lab/big'" in opened.run(query)


def test_the_table_behind_a_chart_opens_and_sorts_and_its_numbers_are_the_querys(opened, reader):
    opened.run("document.querySelector('details.table[data-section=map] summary').click()")
    cells = """[...document.querySelectorAll('details.table[data-section=map] tbody tr')]
        .map((row) => [...row.cells].map((cell) => cell.textContent))"""
    opened.wait(f"{cells}.length")
    rows = opened.run(cells)
    sql = opened.run("document.querySelector('code[data-section=map]').textContent").split('"')[1]
    found = reader.query_frame(sql)
    assert len(rows) == found.height == 36
    assert [float(row[3]) for row in rows] == pytest.approx(found["anisotropy"].to_list(), rel=1e-4)
    head = "document.querySelector('details.table[data-section=map] th:nth-child(4)')"
    for order, reverse in (("ascending", False), ("descending", True)):
        opened.run(f"{head}.querySelector('button').click()")
        assert opened.run(f"{head}.ariaSort") == order
        values = [float(row[3]) for row in opened.run(cells)]
        assert values == sorted(values, reverse=reverse)


def test_a_keyboard_alone_reaches_and_moves_the_switches(opened):
    opened.run("document.querySelector('[name=text]:checked').focus()")
    before = opened.run(PICTURE.format("map"))
    opened.press("ArrowRight", 39)
    for _ in range(10):
        opened.run(RENDERED)
    assert opened.run("document.querySelector('[name=text]:checked').value") == "random-uniform"
    assert opened.run(PICTURE.format("map")) != before
    focused = set()
    for _ in range(14):
        opened.press("Tab", 9)
        focused.add(opened.run("document.activeElement.name || document.activeElement.tagName"))
    assert {"estimator", "colours", "theme"} <= focused


def test_the_colours_of_the_maps_can_be_switched(opened):
    maps, others = PICTURE.format("map"), PICTURE.format("loss")
    before, other = opened.run(maps), opened.run(others)
    opened.run("document.querySelector('[name=colours][value=\"0 to 1\"]').click()")
    for _ in range(20):
        opened.run(RENDERED)
    assert opened.run(maps) != before
    assert opened.run(others) == other


def test_charts_are_named_for_those_who_do_not_see_them(opened):
    named = opened.run("[...document.querySelectorAll('.chart')].map((chart) => chart.ariaLabel)")
    assert len(named) == 10
    assert all(name and len(name) > 40 for name in named)
    assert opened.run("document.querySelectorAll('.chart [aria-roledescription=\"rect mark container\"]').length") == 0


def test_it_prints_without_its_controls(opened):
    opened.send("Emulation.setEmulatedMedia", media="print")
    assert opened.run("getComputedStyle(document.querySelector('.controls')).display") == "none"
    assert opened.run("document.querySelectorAll('.chart svg').length") == 10
    opened.send("Emulation.setEmulatedMedia", media="")
