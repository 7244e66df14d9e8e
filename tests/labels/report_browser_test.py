"""label_report.html in headless Chromium: filters, decisions by mouse and keyboard, the file saved.

Needs the package selenium, and Chromium with its driver (Debian: chromium, chromium-driver).
"""

import csv
import pathlib
import shutil
import time

import numpy as np
import pytest

from reweight_jax.labels import quality, report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium or chromedriver is missing"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # selenium leaves a socket open
]
CLASSES = ("cat", "=dog", "a,b </script>")
SUSPECT = '//li[contains(@class, "card") and not(@hidden)]'


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    flags = "--headless --no-sandbox --disable-background-networking --disable-component-update"
    for flag in [*flags.split(), f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900"]:
        options.add_argument(flag)
    (folder / "downloads").mkdir()
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(folder / "downloads")}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.downloads = folder / "downloads"
    yield driver
    driver.quit()


def open_page(browser, folder: pathlib.Path, task="classification", **arrays):
    """Writes and opens a report of 30 examples."""
    size = 30  # of which all but the last are suspects
    label = np.arange(size) % 3
    log_probability = np.full((size, 3), -3.0)
    log_probability[np.arange(size), (label + 1 + np.arange(size) // 15) % 3] = -0.1
    examples = {"index": np.arange(100, 100 + size), "label": label}
    examples |= {
        "margin": np.append(-5 + 0.1 * np.arange(size - 1), 1.0),
        "log_probability": log_probability,
    }
    examples |= {"id": np.array([f"-{i}.png" for i in range(size)]), "visits": np.ones(size, int)}
    examples |= {"weight": np.ones(size), "alignment": -np.arange(size)} | arrays
    judged = quality.judge(examples, None, task=task, num_outputs=3)
    pixels = np.random.default_rng(0).integers(0, 256, (size, 8, 8), dtype=np.uint8)
    classes = () if task == "regression" else CLASSES
    config = {"name": "", "task": task, "dataset": {"classes": classes, "columns": ()}}
    config |= {"data": {"corrections": ""}}
    pages = report.pages(config, {}, examples, judged, pixels, np.arange(size))
    path = folder / "label_report.html"
    path.write_bytes(pages["label_report.html"])
    browser.get(path.as_uri())
    return path


def save(browser) -> list[dict]:
    """Saves the decisions, and returns the rows of the file."""
    path = browser.downloads / "decisions.csv"
    path.unlink(missing_ok=True)
    click(browser, "#save")
    for _ in range(100):
        if path.exists() and path.stat().st_size:
            break
        time.sleep(0.1)
    return list(csv.DictReader(path.read_text().splitlines()))


def click(browser, selector):
    browser.find_element("css selector", selector).click()


def keys(browser, text):
    for key in text:
        browser.switch_to.active_element.send_keys(key)


def choose(browser, menu, value):
    click(browser, f'#{menu} option[value="{value}"]')


def shown(browser):
    return [int(e.get_attribute("data-index")) for e in browser.find_elements("xpath", SUSPECT)]


def counts(browser):
    return browser.find_element("id", "counts").text


def test_filter_sort_decide_save_and_reload(browser, tmp_path):
    path = open_page(browser, tmp_path)
    assert shown(browser) == list(range(100, 130)) and "30 undecided" in counts(browser)
    assert browser.execute_script("return document.images[0].naturalWidth") == 8
    choose(browser, "given", 1)
    assert shown(browser) == list(range(101, 130, 3))
    choose(browser, "suggested", 0)
    assert shown(browser) == [i for i in range(101, 130, 3) if i >= 115]
    choose(browser, "sort", "a")
    assert shown(browser) == [i for i in range(128, 100, -3) if i >= 115]
    click(browser, "#filters button[type=reset]")
    time.sleep(0.2)
    choose(browser, "decided", "none")
    click(browser, '[data-index="100"] button.keep')  # by mouse: it leaves the list
    assert shown(browser)[0] == 101
    choose(browser, "decided", "")
    click(browser, '[data-index="101"] option[value="0"]')  # a menu relabels
    browser.execute_script("document.querySelector('[data-index=\"101\"]').focus()")
    keys(browser, "j231k")  # each decision goes on to the next example
    assert "2 keep · 2 relabel · 1 drop · 25 undecided" in counts(browser)
    keys(browser, "u")
    assert "1 keep · 2 relabel · 1 drop · 26 undecided" in counts(browser)
    keys(browser, "1")
    assert "2 keep · 2 relabel · 1 drop · 25 undecided" in counts(browser)
    expected = [
        ("100", "'-0.png", "cat", "keep", ""),
        ("101", "'-1.png", "'=dog", "relabel", "cat"),
        ("102", "'-2.png", "a,b </script>", "relabel", "cat"),
        ("103", "'-3.png", "cat", "drop", ""),
        ("104", "'-4.png", "'=dog", "keep", ""),
    ]
    browser.get(path.as_uri())  # decisions survive
    rows = save(browser)
    assert list(rows[0]) == ["index", "id", "given_label", "decision", "new_label"]
    assert [tuple(row.values()) for row in rows] == expected
    click(browser, "#accept")
    assert "1 undecided" in counts(browser)  # it is no suspect
    rows = save(browser)
    assert len(rows) == 29
    assert [row["new_label"] for row in rows[6:9]] == ["'=dog", "a,b </script>", "cat"]
    click(browser, "#clear")
    browser.switch_to.alert.accept()
    assert "30 undecided" in counts(browser)
    click(browser, "#save")
    assert "no decision to save" in browser.find_element("id", "message").text
    assert not browser.get_log("browser")  # no error, and nothing was blocked


def test_a_cell_of_the_heat_map_lists_its_pairs(browser, tmp_path):
    open_page(browser, tmp_path)
    click(browser, 'table.heat button[data-given="2"][data-suggested="0"]')
    time.sleep(0.2)
    assert shown(browser) == list(range(102, 115, 3))
    focused = browser.switch_to.active_element
    assert focused.get_attribute("data-index") == "102"


def test_tags_are_chosen_one_by_one(browser, tmp_path):
    label = np.tile([[1, 0, -1]], (30, 1))
    margin = np.tile([[-2.0, 1, 0]], (30, 1))
    open_page(browser, tmp_path, "multi_label", label=label, margin=margin)
    card = '[data-index="100"]'
    click(browser, f"{card} button.relabel")  # the suggestion
    click(browser, f"{card.replace('100', '101')} .tags button:nth-child(2)")  # and one tag more
    click(browser, f"{card.replace('100', '102')} .tags button:nth-child(3)")  # a tag gets known
    rows = save(browser)
    assert [row["given_label"] for row in rows] == ["cat;?a,b </script>"] * 3
    new = ["?a,b </script>", "'=dog;?a,b </script>", "a,b </script>"]
    assert [row["new_label"] for row in rows] == new


def test_numbers_are_checked(browser, tmp_path):
    label = np.arange(30, dtype=np.float32)
    prediction = np.where(label == 0, 9.25, label).astype(np.float32)
    arrays = {
        "label": label,
        "margin": -np.abs(label - prediction) - 0.01,
        "prediction": prediction,
    }
    open_page(browser, tmp_path, "regression", **arrays)
    field = browser.find_element("css selector", '[data-index="100"] input')
    assert field.get_attribute("value") == "9.25"
    field.clear()
    field.send_keys("much")
    click(browser, '[data-index="100"] button.relabel')
    assert "Give the new label" in browser.find_element("id", "message").text
    field.clear()
    field.send_keys("-3.5")
    click(browser, '[data-index="100"] button.relabel')
    (row,) = save(browser)
    assert (row["given_label"], row["decision"], row["new_label"]) == ("0", "relabel", "-3.5")
