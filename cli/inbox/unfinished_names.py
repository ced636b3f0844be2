"""Names of files in the inbox that are not data, or are not complete.

Many programs write a file under such a name and rename it when it is complete; the daemon ignores it until then. The
comparison ignores case.
"""

from __future__ import annotations

import re

PREFIXES: dict[str, str] = {
    ".": "hidden; rsync `.name.XXXXXX`, Syncthing `.syncthing.name.tmp`, Nextcloud `._sync_…`, vim, NFS `.nfs…`",
    "~$": "Microsoft Office: the lock of an open document",
    "~syncthing~": "Syncthing on Windows",
    "._": "macOS: attributes of a file, on a file system without them",
}

SUFFIXES: dict[str, str] = {
    ".tmp": "many programs",
    ".temp": "many programs",
    ".part": "Firefox, ownCloud, curl scripts, yt-dlp",
    ".partial": "Internet Explorer, Edge, rclone, casync",
    ".filepart": "WinSCP",
    ".download": "Safari",
    ".crdownload": "Chrome, Edge",
    ".opdownload": "Opera",
    ".aria2": "aria2: its progress",
    ".lftp-pget-status": "lftp: its progress",
    ".!ut": "µTorrent",
    ".!qb": "qBittorrent",
    ".bc!": "BitComet",
    ".incomplete": "many programs",
    ".unfinished": "many programs",
    ".uploading": "many upload pages",
    ".swp": "vim",
    ".swo": "vim",
    "~": "editors: the file before the change",
}

EXACT: dict[str, str] = {
    "thumbs.db": "Windows: pictures of a folder",
    "ehthumbs.db": "Windows: pictures of a folder",
    "desktop.ini": "Windows: how a folder looks",
    "icon\r": "macOS: how a folder looks",
}

_PATTERNS: dict[str, str] = {
    r".+\.goutputstream-\w{6}": "GLib, GNOME",
    r".+\.(part|partial|tmp)[-.]?[0-9a-f]{1,16}": "yt-dlp, rclone `name.a1b2c3d4.partial`, many programs",
    r".+\.part-frag\d+(\.part)?": "yt-dlp",
    r".+\.sb-[0-9a-f]{8}-\w{6}": "macOS: a document that is saved",
    r".+ \(.*conflicted copy.*\).*\.tmp": "Dropbox",
    r"sync-conflict-.+\.tmp": "Syncthing",
    r"#.*#": "Emacs",
}

_UNFINISHED = re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS), re.IGNORECASE | re.DOTALL)


def is_unfinished(name: str) -> bool:
    """True for the name of a file that is not data, or not complete.

    >>> [is_unfinished(name) for name in ("a.jsonl.filepart", "Thumbs.db", ".a.jsonl.Ab12Cd", "a.jsonl")]
    [True, True, True, False]
    """
    lower = name.lower()
    return (
        lower.startswith(tuple(PREFIXES))
        or lower.endswith(tuple(SUFFIXES))
        or lower in EXACT
        or _UNFINISHED.fullmatch(lower) is not None
    )
