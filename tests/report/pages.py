"""A report's page, written and read back."""

from html.parser import HTMLParser

from safe_train.evaluation.conditions import conditions_for
from safe_train.report import read_runs, write_report

HOSTILE = "</b><script>document.title='taken'</script><img src=x onerror=alert(1)>"


ALL_VL, ALL_AUDIO = tuple(conditions_for("vl")), tuple(conditions_for("audio"))


VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Elements with their attributes, and whether each one that was opened was closed."""

    def __init__(self):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


def read(page):
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def report_on(*paths, output=None):
    return write_report(read_runs(paths), output)
