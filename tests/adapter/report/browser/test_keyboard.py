"""Everything that the page can do, done by keyboard."""


def test_first_tab_skips_to_the_results_and_focus_is_seen(browser, page):
    browser.open(page)
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "main"


def test_headings_sort_by_keyboard(browser, page):
    browser.open(page)
    browser.run("document.querySelector('#filters [name=words]').focus()")
    browser.tab_to("#samples-table th:nth-child(7) button")
    read = "[...document.querySelectorAll('#samples-table tbody tr')].map((row) => Number(row.dataset.score))"
    heading = "document.querySelector('#samples-table th:nth-child(7)').getAttribute('aria-sort')"
    assert browser.run(heading) == "none"
    browser.press("Enter")
    assert browser.run(heading) == "ascending"
    scores = browser.run(read)
    assert scores == sorted(scores)
    browser.press("Enter")
    assert browser.run(heading) == "descending"
    assert browser.run(read) == sorted(scores, reverse=True)
    browser.tab_to("#samples-table th:nth-child(8) button")
    browser.press("Enter")
    assert browser.run(heading) == "none"


def test_filters_by_keyboard_and_says_how_many_are_left(browser, page):
    browser.open(page)
    shown = "[...document.querySelectorAll('#samples-table tbody tr')].filter((row) => !row.hidden)"
    count = "document.querySelector('#samples-count').textContent"
    assert browser.run(count) == "40 samples"
    browser.tab_to("#filters [name=label]")
    browser.press("f", text="f")  # fake
    fakes = browser.run(f"{shown}.length")
    assert browser.run(f"{shown}.every((row) => row.dataset.label === 'fake')")
    assert browser.run(count) == f"{fakes} of 40 samples"
    browser.tab_to("#filters [name=method]")
    browser.press("l", text="l")  # lip<sync>
    assert 0 < browser.run(f"{shown}.length") < fakes
    browser.tab_to("#filters [type=reset]")
    browser.press("Enter")
    assert browser.run(f"new Promise((done) => setTimeout(() => done({count})))") == "40 samples"
    browser.run("document.querySelector('#filters [name=outcome]').focus()")
    browser.press("e", text="e")  # every mistake
    assert browser.run(f"{shown}.length > 0 && {shown}.every((row) => row.dataset.outcome !== 'correct')")
    browser.tab_to("#filters [name=words]")
    for character in "NERROR":
        browser.press(character, text=character)
    assert browser.run(f"{shown}.map((row) => row.cells[0].textContent)") == ["<img src=x onerror='window.hacked=1'>\"&.mp4"]


def test_score_range_filters(browser, page):
    browser.open(page)
    browser.run(
        "const low = document.querySelector('#filters [name=low]'); low.value = '0.4';"
        "document.querySelector('#filters [name=high]').value = '0.6'; low.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    rows = "[...document.querySelectorAll('#samples-table tbody tr')].map((row) => [row.hidden, Number(row.dataset.score)])"
    assert all(hidden != (0.4 <= score <= 0.6) for hidden, score in browser.run(rows))


def test_colours_can_be_chosen_and_are_remembered(browser, page):
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(page, scheme="dark")
    assert browser.run(ground) == "rgb(20, 23, 26)"
    browser.tab_to("#theme")
    browser.press("Enter")
    assert browser.run(ground) == "rgb(255, 255, 255)"
    assert browser.run("document.activeElement.textContent") == "Colours: light"
    browser.open(page, scheme="dark")
    assert browser.run(ground) == "rgb(255, 255, 255)"
    browser.tab_to("#theme")
    browser.press("Enter")
    browser.press("Enter")
    assert browser.run("document.activeElement.textContent") == "Colours: as the system"
