"""A browser without JavaScript: keeps cookies, reads and fills in forms, follows redirects as far as this host."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from tests.core.cores import Client, Core, Reply

FORM = "application/x-www-form-urlencoded"
MAX_REDIRECTS = 15


@dataclass
class Form:
    """A form: where it goes, what is in it, and its buttons as (text, name, value)."""

    action: str = ""
    method: str = "get"
    encoding: str = FORM
    fields: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str, str]] = field(default_factory=list)


class Document(HTMLParser):
    """What a person and a password manager see of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title = ""
        self.words: list[str] = []
        self.links: dict[str, str] = {}
        self.form: Form | None = None
        self.labels: dict[str, str] = {}
        self.attributes: dict[str, dict[str, str]] = {}
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._in: list[str] = []
        self._link = self._button = self._label = ""
        self._select = self._area = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        self._in.append(tag)
        if tag == "a":
            self._link = given.get("href", "")
        if tag == "label":
            self._label = given.get("for", "")
        if tag == "form":
            self.form = Form(given.get("action", ""), given.get("method", "get"), given.get("enctype", FORM))
        if self.form is None:
            return
        name = given.get("name", "")
        if name and tag in ("input", "select", "textarea"):
            self.attributes[name] = given
            self.form.kinds[name] = given.get("type", tag)
        if tag == "input" and given.get("type") in ("checkbox", "radio"):
            if "checked" in given:
                self.form.fields[name] = given.get("value", "on")
        elif tag == "input" and name and given.get("type") != "file":
            self.form.fields[name] = given.get("value", "")
        if tag == "select":
            self._select = name
        if tag == "textarea":
            self._area, self.form.fields[name] = name, ""
        if tag == "option" and ("selected" in given or self._select not in self.form.fields):
            self.form.fields[self._select] = given.get("value", "")
        if tag == "button":
            self.form.buttons.append(("", name, given.get("value", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._in:
            while self._in.pop() != tag:
                pass
        if tag == "textarea":
            self._area = ""

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if not text:
            return
        if self._area and self.form is not None:
            self.form.fields[self._area] += data
        if "title" in self._in:
            self.title = text
            return
        self.words.append(text)
        if "a" in self._in:
            self.links[text] = self._link
        if "label" in self._in and self._label:
            self.labels[self._label.removeprefix("field-")] = text
        if "button" in self._in and self.form is not None:
            self.form.buttons[-1] = (text, *self.form.buttons[-1][1:])

    @property
    def text(self) -> str:
        """All that can be read."""
        return " ".join(self.words)


class Browser:
    """Goes from page to page. ``left`` is the address outside of the core to which it was sent, ``""`` if none."""

    def __init__(self, core: Core, **headers: str) -> None:
        self.client = Client(core, headers)
        self.at = "/"
        self.left = ""
        self.hops: list[int] = []
        self.reply: Reply | None = None

    @property
    def page(self) -> Document:
        """The page that is shown."""
        assert self.reply is not None
        return Document(self.reply.body.decode())

    @property
    def status(self) -> int:
        """Status of the page that is shown."""
        assert self.reply is not None
        return self.reply.status

    async def open(self, path: str) -> Browser:
        """Go to an address."""
        return await self._go("GET", path)

    async def submit(self, button: str = "", **fields: str) -> Browser:
        """Fill in the form and press a button, the first one if none is named."""
        form = self.page.form
        assert form is not None, self.page.text
        missing = fields.keys() - form.kinds.keys()
        assert not missing, f"the form has no {missing}"
        sent = form.fields | fields
        pressed = next(item for item in form.buttons if not button or item[0] == button)
        pairs = [*sent.items(), *([pressed[1:]] if pressed[1] else [])]
        return await self._go("POST", form.action or self.at, urlencode(pairs))

    async def log_in(self, username: str = "alice", password: str | None = None) -> Browser:
        """Answer the default flow's two pages."""
        await self.submit(uid_field=username)
        return await self.submit(password=password or f"{username}-pw-1")

    async def _go(self, method: str, path: str, body: str | None = None) -> Browser:
        self.left, self.hops = "", []
        for _ in range(MAX_REDIRECTS):
            headers = {"Content-Type": FORM} if body is not None else {}
            self.reply = await self.client.request(method, path, raw=body, headers=headers)
            self.hops.append(self.reply.status)
            if self.reply.status not in (302, 303):
                self.at = path
                return self
            target = urljoin(path, self.reply.headers["Location"])
            if urlsplit(target).netloc or not target.startswith("/"):
                self.left = target
                return self
            method, path, body = "GET", target, None
        raise AssertionError("endless redirects")

    @property
    def given(self) -> dict[str, str]:
        """The parameters of the address that the browser was sent to."""
        parts = urlsplit(self.left)
        return dict(parse_qsl(parts.query) + parse_qsl(parts.fragment))
