"""The HTML report in a real Chromium, as a reader uses it. Needs Debian's `chromium` and `chromium-driver`."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.record import save_record
from harness.report import write_report
from tests.harness import records

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no Chromium here: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, tmp_path: Path):
    """Opens the report of a record of tests.harness.records by name."""

    def open_report(name: str, width: int = 1280):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        save_record(getattr(records, name)(), folder)
        write_report(folder)
        browser.set_window_size(width, 900)
        # Smaller than a window can be: the width of a phone.
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        emulate(browser, "light")
        browser.get((folder / "report.html").as_uri())
        browser.execute_script("localStorage.clear()")
        return browser

    return open_report


def emulate(browser, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def waiting(browser):
    """For what the page does in an event that comes when it comes."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, timeout=20)


def find(browser, css: str):
    return browser.find_element("css selector", css)


def shown_rows(browser, column: int) -> list[str]:
    """Text of one column, in the order in which the rows stand, of those that are shown."""
    script = """return [...document.querySelectorAll('#cells tbody tr')]
        .filter(row => row.checkVisibility()).map(row => row.cells[arguments[0]].innerText)"""
    return browser.execute_script(script, column)


def heading(browser, text: str) -> int:
    script = "return [...document.querySelectorAll('#cells thead th')].map(th => th.innerText)"
    return [one.strip() for one in browser.execute_script(script)].index(text)


def sort_by(browser, text: str) -> int:
    column = heading(browser, text)
    browser.find_elements("css selector", "#cells thead th")[column].find_element(
        "css selector", "button"
    ).click()
    return column


def sort_state(browser) -> dict[str, str]:
    script = """return Object.fromEntries([...document.querySelectorAll('#cells th[aria-sort]')]
        .map(th => [th.innerText.trim(), th.getAttribute('aria-sort')]))"""
    return browser.execute_script(script)


@pytest.mark.parametrize("name", [*records.ALL, "nine_by_nineteen"])
def test_opens_without_errors_and_without_network(opened, name):
    browser = opened(name)
    assert browser.get_log("browser") == []
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert [r for r in browser.execute_script(script) if not r.startswith("data:")] == []
    assert find(browser, "h1").text == browser.title


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["failures", "nine_by_nineteen", "cpu"])
def test_only_tables_and_charts_scroll_sideways(opened, name, width, monkeypatch):
    record = getattr(records, name)()
    record.solutions[0].label = "a_label_" * 12
    monkeypatch.setattr(records, name, lambda: record)
    browser = opened(name, width)
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(script) == 0


def test_sorting(opened):
    """Numbers sort as numbers, a second click turns round, and cells without a value stay last."""
    browser = opened("failures")
    assert sort_state(browser) == {"T": "ascending"}
    column = sort_by(browser, "Speedup")
    assert shown_rows(browser, column) == ["30.00x", "40.00x", "120.00x", *["-"] * 5]
    assert sort_state(browser) == {"Speedup": "ascending"}
    sort_by(browser, "Speedup")
    assert shown_rows(browser, column) == ["120.00x", "40.00x", "30.00x", *["-"] * 5]
    assert sort_state(browser) == {"Speedup": "descending"}
    column = sort_by(browser, "Abs. error")
    assert shown_rows(browser, column) == ["0.5", "0.5", "0.5", "infinite", *["-"] * 4]
    column = sort_by(browser, "Solution")
    assert (
        shown_rows(browser, column)
        == [*["absent"] * 2, *["broken"] * 2, *["right"] * 2] + ["wrong"] * 2
    )


def test_sorting_with_the_keyboard(opened):
    browser = opened("four_way")
    button = browser.find_elements("css selector", "#cells thead button")[0]
    button.send_keys("\ue007")  # Enter
    assert sort_state(browser) == {"T": "descending"}
    assert shown_rows(browser, 0)[0] == "14107"
    assert browser.execute_script("return document.activeElement.innerText.trim()") == "T"


def test_filtering(opened):
    browser = opened("failures")
    solution = heading(browser, "Solution")
    select(browser, "solution", "broken")
    assert shown_rows(browser, solution) == ["broken", "broken"]
    assert find(browser, "#shown").text == "2 of 8 cells"
    select(browser, "status", "PASSED")
    assert shown_rows(browser, solution) == []
    show_all(browser, solution)
    select(browser, "status", "INCORRECT_NUMERICAL")
    assert shown_rows(browser, solution) == ["wrong"]
    show_all(browser, solution)
    find(browser, "#filters [name=low]").send_keys("2")
    assert shown_rows(browser, heading(browser, "T")) == ["57"] * 4
    find(browser, "#filters [name=high]").send_keys("56")
    assert find(browser, "#shown").text == "0 of 8 cells"


def show_all(browser, column: int) -> None:
    """A form is reset after the event, so that the page filters a moment later."""
    find(browser, "#filters button[type=reset]").click()
    waiting(browser).until(lambda _: len(shown_rows(browser, column)) == 8)


def select(browser, name: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(find(browser, f"#filters [name={name}]")).select_by_visible_text(value)


def test_a_failed_cell_shows_its_log(opened):
    browser = opened("failures")
    log = find(browser, "#cells tr[data-solution=broken] details pre")
    assert not log.is_displayed()
    find(browser, "#cells tr[data-solution=broken] details summary").click()
    assert log.is_displayed() and "<b>end</b>" in log.text and "error: a | b" in log.text


def test_hover_and_focus_tell_everything_of_a_cell(opened):
    from selenium.webdriver import ActionChains

    browser = opened("failures")
    tip = find(browser, "#tip")
    cells = browser.find_elements("css selector", ".matrix .tipped")
    assert not tip.is_displayed()
    ActionChains(browser).scroll_to_element(cells[0]).move_to_element(cells[0]).perform()
    assert tip.is_displayed()
    for part in ("wrong on 11111111 (T=1)", "100.0 us", "3.33x the floor", "error 0.5"):
        assert part in tip.text, tip.text
    browser.execute_script("arguments[0].focus()", cells[2])
    assert "COMPILE_ERROR" in tip.text and "<b>end</b>" in tip.text
    assert cells[2].get_attribute("aria-describedby") == "tip"
    cells[2].send_keys("\ue00c")  # Escape
    assert not tip.is_displayed() and cells[2].get_attribute("aria-describedby") is None


def test_marks_of_a_chart_have_a_hover_text(opened):
    browser = opened("four_way")
    script = "return document.querySelector('#speedup-series-2 use title').textContent"
    assert browser.execute_script(script).startswith("c on 11111111 (T=1): 40.00x, 300.0 us")


def dimmed(browser) -> dict[str, list[bool]]:
    """By chart, which of its lines stand back, in the order of the solutions."""
    script = """const found = {};
        for (const g of document.querySelectorAll(".chart g[id*='-series-']")) {
            const [chart, index] = g.id.split("-series-");
            (found[chart] ??= [])[index] = getComputedStyle(g).opacity < 0.5;
        }
        return found"""
    return browser.execute_script(script)


def test_a_line_can_be_made_to_stand_out(opened):
    """By choice, and for as long as the pointer is on one of its marks; a page of one solution has no choice."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.select import Select

    browser = opened("four_way")
    nothing = {
        chart: [False] * 4 for chart in ("speedup", "latency", "floor-ratio", "matched-ratio")
    }
    assert dimmed(browser) == nothing
    choice = Select(find(browser, "#highlight select"))
    choice.select_by_visible_text("c")
    assert dimmed(browser) == {chart: [True, True, False, True] for chart in nothing}
    script = "return document.querySelector('#speedup-series-2').nextElementSibling"
    assert browser.execute_script(script) is None, "drawn last, so on top"
    mark = find(browser, "#speedup-series-0 use")
    ActionChains(browser).scroll_to_element(mark).move_to_element(mark).perform()
    assert dimmed(browser)["speedup"] == [False, True, True, True]
    ActionChains(browser).move_to_element(find(browser, "h1")).perform()
    assert dimmed(browser)["speedup"] == [True, True, False, True]
    choice.select_by_visible_text("none")
    assert dimmed(browser) == nothing
    assert opened("single_solution").find_elements("css selector", "#highlight") == []
    # A solution of which no chart has a mark would leave nothing standing out.
    options = Select(find(opened("failures"), "#highlight select")).options
    assert [option.text for option in options] == ["none", "wrong", "right"]


PAPER = """const page = getComputedStyle(document.body);
    const chart = getComputedStyle(document.querySelector('.chart svg text'));
    return [page.backgroundColor, page.color, chart.fill]"""
LIGHT = ["rgb(255, 255, 255)", "rgb(36, 41, 47)", "rgb(36, 41, 47)"]
DARK = ["rgb(13, 17, 23)", "rgb(230, 237, 243)", "rgb(230, 237, 243)"]


def test_dark_mode_follows_the_system_and_the_button(opened):
    browser = opened("four_way")
    assert browser.execute_script(PAPER) == LIGHT
    emulate(browser, "dark")
    assert browser.execute_script(PAPER) == DARK
    button = find(browser, "#theme")
    waiting(browser).until(lambda _: button.get_attribute("aria-pressed") == "true")
    button.click()
    assert browser.execute_script(PAPER) == LIGHT
    browser.refresh()
    assert browser.execute_script(PAPER) == LIGHT, "the choice is kept"


def test_everything_that_can_be_used_has_a_name(opened):
    """By the browser's own accessibility tree: buttons, fields, tables and images."""
    browser = opened("failures")
    browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            name = node.get("name", {}).get("value", "")
            roles.setdefault(node["role"]["value"], []).append(name)
    for role in ("button", "combobox", "spinbutton", "image", "region"):
        assert roles.get(role), f"no {role}: {json.dumps(sorted(roles))}"
        assert all(name.strip() for name in roles[role]), (role, roles[role])
    assert any("Speedup over the reference" in name for name in roles["image"])
    assert "Speedup" in [name.strip() for name in roles["columnheader"]]


def test_focus_is_seen(opened):
    browser = opened("four_way")
    find(browser, "body").send_keys("\ue004")  # Tab: the link that skips to the results
    script = """const e = document.activeElement, s = getComputedStyle(e);
        return [e.className, s.outlineStyle, e.getBoundingClientRect().left >= 0]"""
    assert browser.execute_script(script) == ["skip", "solid", True]
