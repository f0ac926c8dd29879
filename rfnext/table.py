"""Tables as plain text, for people."""

from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """The rows under their header, in columns as wide as their widest entry; columns of `right` end flush."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(texts: Sequence[str]) -> str:
        cells = zip(texts, widths, strict=True)
        return "  ".join(t.rjust(n) if i in right else t.ljust(n) for i, (t, n) in enumerate(cells)).rstrip()

    return "\n".join(map(line, [header, ["-" * width for width in widths], *rows]))
