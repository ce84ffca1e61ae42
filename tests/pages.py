"""A page as a reader sees it: its tags, its text, and the solutions it shows."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Shown:
    """A problem, or one of its responses."""

    tags: list[str] = field(default_factory=list)
    title: str = ""
    text: str = ""
    steps: list[str] = field(default_factory=list)
    responses: list["Shown"] = field(default_factory=list)


class Page(HTMLParser):
    """`tags` are (name, attributes), `scripts` what would run; text has single spaces between its parts."""

    def __init__(self, source):
        super().__init__()
        self.source, self.tags, self.scripts, self.parts, self.articles = source, [], [], [], []
        self._open = []
        self.feed(source)

    @property
    def text(self):
        return " ".join(self.parts)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))
        self._open.append(tag)
        if tag == "article":
            self.articles.append(Shown(json.loads(dict(attrs)["data-tags"])))
        elif tag == "section" and "article" in self._open:
            self.articles[-1].responses.append(Shown())
        elif tag == "li" and "article" in self._open:
            self.articles[-1].steps.append("")
        if tag in ("meta", "img", "br"):
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif data.strip() and "style" not in self._open:
            part = data.strip()
            self.parts.append(part)
            if "article" in self._open:
                self._within(part)

    def _within(self, part):
        article = self.articles[-1]
        article.text = f"{article.text} {part}".strip()
        if "li" in self._open:
            article.steps[-1] = f"{article.steps[-1]} {part}".strip()
        if "h3" in self._open:
            article.title = f"{article.title} {part}".strip()
        if article.responses and "section" in self._open[self._open.index("article") :]:
            response = article.responses[-1]
            response.text = f"{response.text} {part}".strip()
            if "h4" in self._open:
                response.title = f"{response.title} {part}".strip()
