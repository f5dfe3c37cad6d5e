"""What a page shows, as a frozen dataclass that is written to and read from the URL, which leaves defaults out."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qs, urlencode


@dataclass(frozen=True)
class State:
    """Base of every page's state: the fields are strings, whole numbers or decimals, each with a default."""

    PATH: ClassVar[str] = "/"

    def href(self) -> str:
        """The address of this state, relative to the server."""
        changed = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return self.PATH + ("?" + urlencode(changed) if changed else "")


AnyState = TypeVar("AnyState", bound=State)


def read(kind: type[AnyState], search: str) -> AnyState:
    """The state in a query string. Unknown names are ignored, and a value of the wrong type counts as absent."""
    given = parse_qs(search.removeprefix("?"), keep_blank_values=True, max_num_fields=50, errors="replace")
    values: dict[str, Any] = {}
    for field in fields(kind):
        if field.name in given:
            try:
                values[field.name] = type(field.default)(given[field.name][-1])
            except (ValueError, OverflowError):
                continue
    return kind(**values)
