"""What captions decide: which one a picture is shown with, and whether it may be mirrored."""

import re
from collections.abc import Callable, Sequence

from fluxflow.errors import ConfigError

RULES: dict[str, Callable[[Sequence[str], float], str]] = {
    "random": lambda captions, draw: captions[int(draw * len(captions))],
    "first": lambda captions, draw: captions[0],
    "longest": lambda captions, draw: max(captions, key=len),
}
# Words after which a mirrored picture would belie its caption: sides, writing, what is drawn or built one way round.
SIDES_AND_WRITING = (
    "left", "right", "leftmost", "rightmost", "leftward", "rightward", "leftwards", "rightwards", "left-handed",
    "right-handed", "clockwise", "counterclockwise", "anticlockwise", "clock", "clocks", "map", "maps", "text",
    "texts", "letter", "letters", "lettering", "word", "words", "wording", "writing", "written", "write", "writes",
    "handwriting", "handwritten", "calligraphy", "typography", "font", "fonts", "sign", "signs", "signage", "logo",
    "logos", "label", "labels", "labeled", "labelled", "number", "numbers", "numbered", "numeral", "numerals",
    "digit", "digits", "reads", "says", "saying", "slogan", "slogans", "quote", "quotes", "title", "titles", "titled",
    "caption", "captions", "inscription", "inscribed", "alphabet", "initials", "monogram", "watermark", "poster",
    "posters", "billboard", "billboards", "banner", "banners", "newspaper", "newspapers", "magazine", "magazines",
    "calendar", "keyboard",
)  # fmt: skip


class CaptionRule:
    """Chooses one of the captions of a picture.

    Args:
        rule: "random", "first" or "longest".
        prefix: put before every caption, with a space between; empty: nothing.

    Raises:
        ConfigError: for another rule.
    """

    def __init__(self, rule: str = "first", prefix: str = "") -> None:
        if rule not in RULES:
            raise ConfigError(f"data.transform.caption_rule is {rule!r}: it can be {', '.join(RULES)}")
        self.rule, self.prefix = rule, prefix

    def __repr__(self) -> str:
        return f"{self.rule} caption after {self.prefix!r}"

    def __call__(self, captions: Sequence[str], draw: float) -> str:
        """The caption, empty where there is none; `draw` in [0, 1) decides where the rule leaves it to chance."""
        if not captions:
            return ""
        caption = RULES[self.rule](captions, draw)
        return f"{self.prefix} {caption}" if self.prefix else caption


class FlipGuard:
    """Knows from its captions whether a picture may be mirrored.

    Args:
        words: any of these in any caption forbids it, whole words in upper or lower case. "default": the list above.
            None: every picture may be mirrored.
    """

    def __init__(self, words: Sequence[str] | None = "default") -> None:
        if isinstance(words, str) and words != "default":
            raise ConfigError(f"data.transform.flip_guard is {words!r}: it can be default, null, or a list of words")
        words = SIDES_AND_WRITING if words == "default" else words
        self.words = tuple(words or ())
        choices = "|".join(map(re.escape, self.words))
        self._pattern = re.compile(rf"(?<!\w)(?:{choices})(?!\w)", re.IGNORECASE) if choices else None

    def __repr__(self) -> str:
        return f"unless {', '.join(self.words)}" if self.words else "always"

    def allows(self, captions: Sequence[str]) -> bool:
        """Whether no caption holds a word of the list."""
        return self._pattern is None or not any(map(self._pattern.search, captions))
