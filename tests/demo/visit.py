"""A visit of the page with a browser: on a phone, with the keyboard alone, and nothing fetched from elsewhere.

Arguments: the address of a page with one classifier, ``luna``, and the program of the browser.
"""

import sys

from playwright.sync_api import Page, sync_playwright


PHONE = {"width": 390, "height": 844}


def to(page: Page, role: str, name: str) -> None:
    """Press Tab until an element has the focus."""
    wanted = page.get_by_role(role, name=name)
    for _ in range(40):
        page.keyboard.press("Tab")
        if wanted.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"{name} cannot be reached with Tab")


def visit(page: Page, address: str) -> None:
    """Classify a text, and look inside."""
    wrong: list[str] = []
    page.on("request", lambda request: wrong.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.get_by_role("button", name="Classify").wait_for()
    to(page, "textbox", "Text")
    page.keyboard.type("A film to remember.")
    to(page, "button", "Classify")
    page.keyboard.press("Enter")
    page.get_by_text("20 tokens read.").wait_for()
    to(page, "button", "What does it look at?")
    page.keyboard.press("Enter")
    to(page, "button", "Show")
    page.keyboard.press("Enter")
    page.get_by_role("img", name="attention of luna, layer by layer, for 20 tokens").wait_for()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], f"the page is {width} wide"
    elsewhere = [text for text in wrong if not text.startswith((address, "data:", "blob:"))]
    assert not elsewhere, elsewhere


def main(address: str, program: str) -> None:
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=program, args=["--no-sandbox"])
        visit(browser.new_page(viewport=PHONE), address)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
