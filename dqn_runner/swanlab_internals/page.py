"""SwanLab's dashboard page with our changes: all that depends on swanboard's inner parts.

swanboard is pinned to one version. `check` says in a line if another one is installed, or if its
page lacks a text that is replaced here.
"""

from __future__ import annotations

import importlib.util
import mimetypes
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dqn_runner.errors import ConfigError

SWANBOARD_VERSION = "0.1.10b2"
ADDED = Path(__file__).parent  # holds page.js and page.css

# By the beginning of a file's name: texts that it has once, and what takes their places.
REPLACED = {
    "assets/ChartsView-": {
        # The points of all lines of a chart in one request.
        "o.get(`/experiment/${r}/tag/${s}`)": "pointsOf(r,s)",
    },
    "assets/chart-": {
        # No circle, which nobody sees, for each of thousands of points.
        'point:{shape:"last-point"}': 'point:e.length>2e3?void 0:{shape:"last-point"}',
        # Among the lines of runs those of groups are thicker.
        "lineStyle:{lineWidth:1.5}": (
            'lineStyle:s?({series:t})=>({lineWidth:t.includes(", IQM of ")?2.5:1}):{lineWidth:1.5}'
        ),
    },
    "index.html": {
        "</head>": (
            '<script src="/page.js"></script><link rel="stylesheet" href="/page.css"></head>'
        ),
    },
}


def check() -> None:
    """Raise ConfigError unless swanboard is installed in the version whose page we change."""
    try:
        found = version("swanboard")
    except PackageNotFoundError:
        found = "none"
    if found != SWANBOARD_VERSION:
        raise ConfigError(
            f"SwanLab's dashboard needs swanboard {SWANBOARD_VERSION}, found {found}: "
            f"pip install swanboard=={SWANBOARD_VERSION}"
        )
    for beginning, texts in REPLACED.items():
        paths = list(_template().glob(f"{beginning}*"))
        scripts = [_read(path) for path in paths if path.suffix in {".js", ".html"}]
        if len(scripts) != 1 or any(scripts[0].count(text) != 1 for text in texts):
            raise ConfigError(
                f"swanboard {found} has another page than it should, which dqn-dashboard cannot "
                f"change ({beginning}): pip install --force-reinstall swanboard=={found}"
            )


def file(name: str) -> tuple[bytes, str] | None:
    """The content and the media type of a file of the page; None if there is none."""
    folder = ADDED if name in {"page.js", "page.css"} else _template()
    path = (folder / name).resolve()
    if not path.is_file() or not path.is_relative_to(folder.resolve()):
        return None
    content = path.read_bytes()
    for beginning, texts in REPLACED.items():
        if name.startswith(beginning) and path.suffix in {".js", ".html"}:
            for text, instead in texts.items():
                content = content.decode().replace(text, instead).encode()
    kind = {".js": "text/javascript"}.get(path.suffix)  # whatever the system says of it
    return content, kind or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _template() -> Path:
    """The folder of the page, found without importing swanboard, which would start its server."""
    spec = importlib.util.find_spec("swanboard")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "template"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
