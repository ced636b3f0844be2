"""Output on a terminal."""

from __future__ import annotations

import pytest
from rich.color import Color

from cli.output.terminal import ATTENTION, BAD, GOOD, NOTE


@pytest.mark.parametrize("style", [ATTENTION, BAD, GOOD, NOTE])
@pytest.mark.parametrize("background", [0.0, 1.0])
def test_colors_are_readable_on_black_and_on_white(style: str, background: float) -> None:
    """The contrast of WCAG 2.1, section 1.4.3, is at least 3, as it asks for large text."""
    parts = [part / 255 for part in Color.parse(style).get_truecolor()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    lighter, darker = max(luminance, background), min(luminance, background)
    assert (lighter + 0.05) / (darker + 0.05) >= 3
