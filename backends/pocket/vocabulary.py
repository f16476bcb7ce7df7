"""The vocabulary of Pocket World, and the parser of prompts."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from backends.plain_text import plain

PLACES = ("meadow", "desert", "snow", "stone")
TIMES = ("day", "dusk", "night")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
KINDS = ("ball", "box", "pillar", "cone")
SIDES = ("left", "right", "ahead", "behind")
REACHES = ("near", "far")
MAX_COUNT = 4
MAX_THINGS = 9
_LONGEST = 24  # characters shown of an unknown word

VOCABULARY = (
    ("places", PLACES),
    ("times", TIMES),
    ("colours", COLOURS),
    ("things", KINDS),
    ("where", (*SIDES, *REACHES)),
)

_SYNONYMS = {
    "grass": "meadow", "field": "meadow", "garden": "meadow", "spring": "meadow",
    "sand": "desert", "dunes": "desert", "dune": "desert", "sandy": "desert",
    "snowy": "snow", "winter": "snow", "ice": "snow", "icy": "snow", "arctic": "snow",
    "rock": "stone", "rocky": "stone", "stony": "stone", "tiles": "stone", "plaza": "stone",
    "noon": "day", "daylight": "day", "daytime": "day", "morning": "day", "sunny": "day",
    "sunset": "dusk", "evening": "dusk", "twilight": "dusk", "sunrise": "dusk", "dawn": "dusk",
    "dark": "night", "moonlight": "night", "midnight": "night", "moonlit": "night",
    "crimson": "red", "scarlet": "red", "gold": "yellow", "golden": "yellow", "lime": "green",
    "turquoise": "cyan", "teal": "cyan", "violet": "purple", "magenta": "pink",
    "sphere": "ball", "orb": "ball", "globe": "ball",
    "cube": "box", "crate": "box", "block": "box", "boxes": "box",
    "column": "pillar", "tower": "pillar", "post": "pillar", "cylinder": "pillar", "pole": "pillar",
    "pyramid": "cone", "spike": "cone", "tent": "cone",
    "front": "ahead", "centre": "ahead", "center": "ahead", "middle": "ahead", "straight": "ahead",
    "back": "behind",
    "close": "near", "nearby": "near", "foreground": "near",
    "away": "far", "distant": "far", "distance": "far", "horizon": "far", "background": "far",
}  # fmt: skip
_NUMBERS = {"a": 1, "an": 1, "one": 1, "single": 1, "two": 2, "couple": 2, "pair": 2, "three": 3, "four": 4}
_FILLER_TEXT = (
    "the and with in on at of by to from some is are there beside under over into very side sides hand off "
    "scene world place view it its this that which where s something thing things you your me my then also "
    "time"
)
_FILLER = frozenset(_FILLER_TEXT.split())


@dataclass(frozen=True, slots=True)
class Thing:
    """A requested object; None is random. `side` and `reach` are words of SIDES and REACHES."""

    colour: int | None = None
    kind: int | None = None
    side: str | None = None
    reach: str | None = None

    def __str__(self) -> str:
        name = KINDS[self.kind] if self.kind is not None else "something"
        if self.colour is not None:
            name = (
                f"{COLOURS[self.colour]} {name}"
                if self.kind is not None
                else f"{name} {COLOURS[self.colour]}"
            )
        where = " ".join(word for word in (self.side, self.reach) if word)
        return f"{name} ({where})" if where else name


@dataclass(frozen=True, slots=True)
class PromptWords:
    """A parsed prompt, and its unknown words. At most MAX_THINGS objects are kept."""

    place: int | None
    time: int | None
    things: tuple[Thing, ...]
    unknown: tuple[str, ...]
    too_many: bool = False

    def note(self) -> str:
        """Returns one or two sentences for the page."""
        counted: dict[str, int] = {}
        for thing in self.things:
            counted[str(thing)] = counted.get(str(thing), 0) + 1
        heard = [name if number == 1 else f"{number} x {name}" for name, number in counted.items()]
        heard += [PLACES[self.place]] if self.place is not None else []
        heard += [TIMES[self.time]] if self.time is not None else []
        if not heard and not self.unknown:
            return "No prompt: the world is left to chance."
        note = f"Understood: {', '.join(heard)}." if heard else "No word of the prompt is known here."
        if self.too_many:
            note += f" The first {MAX_THINGS} things are used."
        missed = ", ".join(map(_short, self.unknown[:8])) + (" ..." if len(self.unknown) > 8 else "")
        return f"{note} Not in its vocabulary: {missed}." if self.unknown else note


class _Parser:
    """Parser of words from left to right; a comma ends the words about one group of objects."""

    def __init__(self) -> None:
        self.place: int | None = None
        self.time: int | None = None
        self.groups: list[tuple[Thing, int]] = []
        self.unknown: dict[str, None] = {}  # in the order of the prompt
        self._begin_phrase()

    def _begin_phrase(self) -> None:
        self.count = 1
        self.colours: list[tuple[int, int]] = []  # (colour, how many), still without a kind
        self.where = Thing()
        self.first_of_phrase = len(self.groups)

    def _add(self, kind: int | None) -> None:
        for colour, count in self.colours or [(None, self.count)]:
            self.groups.append((replace(self.where, colour=colour, kind=kind), count))
        self.count, self.colours, self.where = 1, [], Thing()

    def _put(self, side: str | None = None, reach: str | None = None) -> None:
        """Sets the position of the phrase's last group, or of the next if there is none or it has one."""
        if self.colours:
            self._add(None)
        if len(self.groups) > self.first_of_phrase:
            thing, count = self.groups[-1]
            if thing.side in (None, side or thing.side) and thing.reach in (None, reach or thing.reach):
                placed = replace(thing, side=side or thing.side, reach=reach or thing.reach)
                self.groups[-1] = (placed, count)
                return
        self.where = replace(self.where, side=side or self.where.side, reach=reach or self.where.reach)

    def end_phrase(self) -> None:
        if self.colours:
            self._add(None)
        elif self.where != Thing() and self.groups:  # "a red box, far away"
            self.first_of_phrase = 0
            self._put(self.where.side, self.where.reach)
        self._begin_phrase()

    def read(self, raw: str) -> None:
        word = _known(raw)
        if raw in ",.;":
            self.end_phrase()
        elif word in PLACES:
            self.place = PLACES.index(word) if self.place is None else self.place
        elif word in TIMES:
            self.time = TIMES.index(word) if self.time is None else self.time
        elif word in COLOURS:
            self.colours.append((COLOURS.index(word), self.count))
            self.count = 1
        elif word in KINDS:
            self._add(KINDS.index(word))
        elif word in SIDES:
            self._put(side=word)
        elif word in REACHES:
            self._put(reach=word)
        elif raw in _NUMBERS:
            self.count = _NUMBERS[raw]
        elif raw.isdecimal():
            self.count = max(1, min(int(raw[:4]), MAX_COUNT))
        elif raw not in _FILLER:
            self.unknown[raw] = None


def parse_prompt(text: str) -> PromptWords:
    """Returns the objects that `text` requests: `two blue pillars far away` are two, blue, pillars, far.

    Signs are those of `plain_text.PLAIN`, so that `，` ends a phrase as a comma does.
    """
    parser = _Parser()
    for raw in re.findall(r"[^\W_]+|[,.;]", plain(text).lower()):
        parser.read(raw)
    parser.end_phrase()
    things = tuple(thing for thing, count in parser.groups for _ in range(count))
    return PromptWords(
        parser.place, parser.time, things[:MAX_THINGS], tuple(parser.unknown), len(things) > MAX_THINGS
    )


def _short(word: str) -> str:
    return word if len(word) <= _LONGEST else f"{word[:_LONGEST]}…"


def _known(raw: str) -> str:
    singular = raw[:-1] if raw.endswith("s") and len(raw) > 3 else raw
    return _SYNONYMS.get(raw) or _SYNONYMS.get(singular) or (raw if raw in PLACES else singular)
