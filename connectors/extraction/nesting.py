"""How deep a page nests, before a parser of HTML is asked: it takes the square of some things.

Measured with lexbor, of pages of half a megabyte: 100,000 open ``div`` take 15 s, 100,000 attributes of one
tag 50 s, as many options of one ``select`` 40 s, and formatting that is never closed (``<p><b id=1></p><p><b
id=2></p>``) is made anew in every paragraph. Browsers stop at 512 levels.

Tags are read as the standard tokenises them. What closes what is the standard's in outline, and never more
than there: a page does not nest deeper than is counted here.
"""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from typing import Final, NamedTuple

from pipeline.errors import Poison

DEPTH: Final = 1_000
ATTRIBUTES: Final = 1_000
OPTIONS: Final = 20_000
#: Each, with a text in it, takes half a kilobyte. People's pages have fewer than one in eight characters.
ELEMENTS: Final = 1_000_000
#: What is open while each of the tags is read, all together: a tag can cost a look at all of it. People's pages of
#: 8 MiB have ten million, and this much takes ten seconds.
WORK: Final = 100_000_000
#: A page with no more of either takes a second, whatever it is.
_FEW_TAGS: Final = 1_000
_SHORT: Final = 100_000

# Possessive (``*+``) all over: nothing is tried twice, however a page goes on.
_ATTRIBUTE: Final = r"[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|[^\s>\"'][^\s>]*+)?+)?+"
_ATTRIBUTES: Final = re.compile(_ATTRIBUTE)
_NAME_VALUE: Final = re.compile(
    r"[\s/]*+([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:\"([^\"]*+)|'([^']*+)|([^\s>]*+)))?+", re.DOTALL
)
_TAG: Final = re.compile(
    r"<!--(?:-?>|.*?(?:--!?>|\Z))|<(?P<cdata>!\[CDATA\[)|<[!?][^>]*+|</[^a-zA-Z>][^>]*+"
    rf"|<(?P<end>/?)(?P<name>[a-zA-Z][^\s/>]*+)(?P<more>(?:{_ATTRIBUTE})*+)(?P<shut>[\s/]*+)",
    re.DOTALL,
)
_CDATA_END: Final = re.compile(r"\]\]>|\Z")
_BOGUS_END: Final = re.compile(r">|\Z")
_FRAMESET: Final = re.compile(r"<frameset[\s/>]", re.IGNORECASE)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Their content is no markup.
_RAW: Final = {
    name: re.compile(rf"</{name}(?=[\s/>])|\Z", re.IGNORECASE)
    for name in ("iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp")
}
_VOID: Final = _names(
    "area base basefont bgsound body br col embed frame frameset head hr html image img input keygen link meta param "
    "source track wbr"
)
_FORMATTING: Final = _names("a b big code em font i nobr s small strike strong tt u")
_HEADINGS: Final = _names("h1 h2 h3 h4 h5 h6")
_CLOSE_P: Final = _HEADINGS | _names(
    "address article aside blockquote center dd details dialog dir div dl dt fieldset figcaption figure footer form "
    "header hgroup li listing main menu nav ol p pre search section summary ul xmp"
)
_TABLE_PARTS: Final = _names("caption colgroup tbody td tfoot th thead tr")
#: By the language of the element around it, what may hold HTML again.
_HOLDS_HTML: Final[dict[str, frozenset[str]]] = {
    "svg": _names("desc foreignobject title"),
    "math": _names("mi mn mo ms mtext"),
}
#: HTML that ends SVG and MathML.
_BREAKS_OUT: Final = (
    (_FORMATTING - {"a", "font"})
    | _HEADINGS
    | _names(
        "blockquote body br center dd div dl dt embed head hr img li listing menu meta ol p pre ruby span sub sup "
        "table ul var"
    )
)
_OF_FONT: Final = _names("color face size")
_HTML_TYPES: Final = _names("text/html application/xhtml+xml")
#: What an end tag does not reach over, within HTML.
_SCOPES: Final = _names("applet caption marquee object select table td template th")
_SPECIAL: Final = (
    _SCOPES
    | _TABLE_PARTS
    | (_CLOSE_P - {"dialog"})
    | _names("button noscript plaintext script style textarea iframe noembed noframes title")
)
#: End tags that only a scope stops; the others stop at anything special.
_REACHING: Final = (_CLOSE_P | _TABLE_PARTS | _names("applet button marquee object select table template")) - {"xmp"}
_LISTS: Final = _SCOPES | {"ol", "ul"}
_ITEM_ENDS: Final = _SPECIAL - {"address", "div", "p"}
#: By start tag, what it closes first: the innermost of these, unless one of those lies above it.
_CLOSES: Final = {
    "button": (_names("button"), _SCOPES),
    "li": (_names("li"), _ITEM_ENDS),
    **dict.fromkeys(("dd", "dt"), (_names("dd dt"), _ITEM_ENDS)),
}


_GROUPS: Final = _names("tbody tfoot thead")
#: Where a part of a table belongs, and what is made if only what lies further out is there.
_PLACES: Final = {
    **dict.fromkeys(("td", "th"), ("table", "tbody", "tr")),
    "tr": ("table", "tbody"),
    **dict.fromkeys(_names("caption colgroup tbody tfoot thead"), ("table",)),
}
_RUBY: Final = _names("rb rp rt rtc")
_IMPLIED: Final = _RUBY | _names("dd dt li optgroup option p")
#: Formatting does not reach into these, nor out of them.
_CELLS: Final = _names("applet caption marquee object td template th")
#: So many elements of formatting with the same attributes are made anew, and no more.
_ALIKE: Final = 3
#: A template may begin with the inner parts of a table.
_IN_TEMPLATE: Final = 3


class _Element(NamedTuple):
    name: str
    language: str = ""
    """``svg`` or ``math``; empty: HTML."""
    foreign: bool = False
    """Its content is not HTML."""

    @property
    def bounds(self) -> bool:
        """Not HTML, and no end tag of HTML in it reaches out of it."""
        return not self.foreign or self.name == "annotation-xml"


def refuse_hostile(html: str) -> None:
    """Raise for a page that would keep the parser busy for minutes, or fill the memory.

    Raises:
        Poison: there is too much of something.
    """
    if html.count("<") > _FEW_TAGS or len(html) > _SHORT:
        Nesting(html)


class Nesting:
    """What is open while the tags of a page are read one after the other.

    Raises:
        Poison: there is too much of something.
    """

    def __init__(self, html: str) -> None:
        self._open: list[_Element] = []
        self._names: Counter[str] = Counter()
        self._formatting: dict[tuple[str, str, int], int] = {}
        """What is made anew in the next paragraph: by tag and the number of cells and the like around it."""
        self._cells = 0
        self._sunk = 0
        self._options = 0
        self._elements = 0
        self._work = 0
        # A page is of frames or of a body, and which is not known here: it is taken for either.
        self.deepest = len(_FRAMESET.findall(html))
        self._check()
        at = 0
        while match := _TAG.search(html, at):
            at, name = match.end(), (match["name"] or "").lower()
            self._work += len(self._open) + len(self._formatting)
            if self._work > WORK:
                raise Poison("extraction_failed", "html: it nests too deep for so many tags")
            if match["cdata"]:
                at = _end(_CDATA_END if self._foreign else _BOGUS_END, html, at)
            elif name and match["end"]:
                self._leave(name)
            elif name:
                self._elements += 1
                if self._elements > ELEMENTS:
                    raise _too_many("elements", ELEMENTS)
                if len(match["more"]) > 2 * ATTRIBUTES and len(_ATTRIBUTES.findall(match["more"])) > ATTRIBUTES:
                    raise _too_many("attributes of a tag", ATTRIBUTES)
                at = self._begin(name, match, html)

    def _begin(self, name: str, match: re.Match[str], html: str) -> int:
        """Take a start tag; where to read on."""
        more, shut = match["more"], match["shut"].endswith("/")
        if self._foreign and (name in _BREAKS_OUT or (name == "font" and _attributes(more).keys() & _OF_FONT)):
            while self._foreign:
                self._pop()
        if self._foreign:
            top = self._open[-1]
            language = "svg" if (top.name, name) == ("annotation-xml", "svg") else top.language
            if not shut:
                html_again = name in _HOLDS_HTML[language] or (
                    name == "annotation-xml" and _attributes(more).get("encoding", "").lower() in _HTML_TYPES
                )
                self._push(_Element(name, language, not html_again))
            return match.end()
        if name in _RAW:
            if name == "xmp":
                self._close_p()
            return _end(_RAW[name], html, match.end())
        if name in _HOLDS_HTML:
            if not shut:
                self._push(_Element(name, name, foreign=True))
        elif name not in _VOID:
            self._enter(name, more)
        elif name == "input" and self._in_scope("select"):
            self._close(frozenset({"select"}), _SCOPES)
        return match.end()

    @property
    def _foreign(self) -> bool:
        return bool(self._open) and self._open[-1].foreign

    def _enter(self, name: str, more: str) -> None:
        if name in _TABLE_PARTS and not self._clear(name):
            return
        if name in _CLOSE_P:
            self._close_p()
        if name in _CLOSES:
            self._close(*_CLOSES[name])
        if name in _HEADINGS and self._top in _HEADINGS:
            self._pop()
        if name in _RUBY and self._in_scope("ruby"):
            while self._top in _IMPLIED:
                self._pop()
        if name == "option":
            self._options += 1
            if self._top == "option":
                self._pop()
        elif name == "table":
            # In a table, but for its cells, another one ends it.
            if self._innermost("table", "template", "caption", "td", "th") == "table":
                self._close(frozenset({"table"}), frozenset())
        elif name == "select":
            self._options = 0
            if self._in_scope(name):
                self._close(frozenset({name}), _SCOPES)
                return
        elif name in _FORMATTING:
            if name in ("a", "nobr"):
                self._reformat(name)
                self._close(frozenset({name}), _SCOPES, alone=True)
            key = name, more, self._cells
            self._formatting[key] = min(_ALIKE, self._formatting.get(key, 0) + 1)
        if name == "noscript" and all(one.name == name for one in self._open):
            # In the head, where it may be now, it does not nest: it counts, and nothing closes it.
            self._sunk += 1
            if self._open:
                self._check()
                return
        self._push(_Element(name))
        if name == "template":
            for _ in range(_IN_TEMPLATE):
                self._push(_Element(""))

    @property
    def _top(self) -> str:
        return self._open[-1].name if self._open and not self._open[-1].language else ""

    def _in_scope(self, name: str) -> bool:
        for element in reversed(self._open):
            if element.name == name and not element.language:
                return True
            if element.bounds if element.language else element.name in _SCOPES:
                return False
        return False

    def _innermost(self, *names: str) -> str:
        return next((one.name for one in reversed(self._open) if one.name in names and not one.language), "")

    def _clear(self, name: str) -> bool:
        """Close what must not lie around a part of a table, and make what must; False: it is no part here."""
        if self._innermost("table", "template") != "table":
            return False
        places = _PLACES[name]
        while not self._belongs(places):
            self._pop()
        have = len(places) if self._top == "tr" else 2 if self._top in _GROUPS else 1
        for missing in places[have:]:
            self._push(_Element(missing))
        return True

    def _belongs(self, places: tuple[str, ...]) -> bool:
        return self._top in places or (self._top in _GROUPS and "tbody" in places)

    def _push(self, element: _Element) -> None:
        self._open.append(element)
        self._names[element.name] += 1
        if element.name in _CELLS and not element.language:
            self._cells += 1
        self._check()

    def _check(self) -> None:
        self.deepest = max(self.deepest, self._sunk + len(self._open) + sum(self._formatting.values()))
        if self.deepest > DEPTH:
            raise _too_many("elements in each other", DEPTH)
        if self._options > OPTIONS:
            raise _too_many("options of a list", OPTIONS)

    def _leave(self, name: str) -> None:
        if self._foreign and name in ("br", "p"):
            while self._foreign:
                self._pop()
        for place in range(len(self._open) - 1, -1, -1):
            if not self._open[place].language:
                break
            if self._open[place].name == name:
                self._pop_to(place)
                return
        if name in _FORMATTING:
            self._reformat(name)
        names = _HEADINGS if name in _HEADINGS else frozenset({name})
        if name == "form":
            if self._in_scope(name):
                while self._top in _IMPLIED:
                    self._pop()
                self._close(names, _SCOPES, alone=True)
        elif name == "li":
            self._close(names, _LISTS)
        elif name == "p":
            self._close_p()
        elif name == "table" or name in _TABLE_PARTS:
            self._close(names, frozenset({"table", "template"}))
        elif any(self._names[one] for one in names):
            self._close(names, _SCOPES if name in _REACHING else _SPECIAL, alone=name in _FORMATTING)

    def _close_p(self) -> None:
        if self._names["p"]:
            self._close(frozenset({"p"}), _SCOPES | {"button"})

    def _close(self, names: frozenset[str], until: frozenset[str], *, alone: bool = False) -> None:
        """The innermost of these with what lies in it, or alone; nothing, if one of those lies above it."""
        for place in range(len(self._open) - 1, -1, -1):
            element = self._open[place]
            if element.language:
                if element.bounds:
                    return
            elif element.name in names:
                if alone and (element.name not in _FORMATTING or self._special(place + 1)):
                    self._forget(self._open.pop(place))
                else:
                    self._pop_to(place)
                return
            elif element.name in until:
                return

    def _special(self, place: int) -> bool:
        """Something from here on outlives the formatting around it."""
        return any(one.name in _SPECIAL and not one.language for one in self._open[place:])

    def _pop_to(self, place: int) -> None:
        while len(self._open) > place:
            self._pop()

    def _pop(self) -> None:
        self._forget(self._open.pop())

    def _forget(self, element: _Element) -> None:
        self._names[element.name] -= 1
        if element.name in _CELLS and not element.language:
            self._cells -= 1
            self._formatting = {key: count for key, count in self._formatting.items() if key[2] <= self._cells}

    def _reformat(self, name: str) -> None:
        """The innermost one of this name is not made anew any more."""
        last = next((key for key in reversed(self._formatting) if (key[0], key[2]) == (name, self._cells)), None)
        if last is not None:
            self._formatting[last] -= 1
            if not self._formatting[last]:
                del self._formatting[last]


def _attributes(more: str) -> dict[str, str]:
    return {
        name.lower(): unescape(double or single or bare)
        for name, double, single, bare in reversed(_NAME_VALUE.findall(more))
    }


def _end(pattern: re.Pattern[str], html: str, at: int) -> int:
    match = pattern.search(html, at)
    assert match is not None  # the end of the page is one
    return match.end()


def _too_many(what: str, most: int) -> Poison:
    return Poison("extraction_failed", f"html: more than {most} {what}")
