"""One file from the network: completely, going on where a download broke off, or an error that says what to do."""

import http.client
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path


def fetch(url: str, place: Path) -> None:
    """Fetch a file to `place`, unless it is there. What came so far is kept beside it and not fetched again.

    Raises OSError, naming the link and the place, if it cannot be fetched or is not complete.
    """
    if place.is_file():
        return
    part = place.with_name(f"{place.name}.part")
    begun = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={begun}-"} if begun else {}
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            size = int(answer.headers["Content-Length"]) + (begun if goes_on else 0)
            with part.open("ab" if goes_on else "wb") as file:
                shutil.copyfileobj(answer, file)
        if part.stat().st_size != size:
            raise OSError(f"it broke off after {part.stat().st_size} of {size} bytes")
    except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # it is no part of that file
        raise OSError(f"cannot fetch {url} ({error}); try again, or put the file at {place}") from error
    os.replace(part, place)
