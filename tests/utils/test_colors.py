"""The colour scale and the notebook display of steps."""

import pytest

from implicit_prm.utils.colors import HeatStrip, Scale


def _rgb(colour):
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]


def test_scale_is_symmetric_around_zero():
    scale = Scale.of("log_ratio", [0.5, -4.0])
    assert scale.ends == (-4.0, 0.0, 4.0)
    assert scale.colour(0.0) == "#ffffff"
    blue, orange = _rgb(scale.colour(4.0)), _rgb(scale.colour(-4.0))
    assert blue[2] > blue[0]
    assert orange[0] > orange[2]
    for value in (0.3, 1.0, 2.5):
        assert scale.strength(value) == -scale.strength(-value) == value / 4
        for colour, end in ((scale.colour(value), blue), (scale.colour(-value), orange)):
            shares = [(255 - part) / (255 - full) for part, full in zip(_rgb(colour), end, strict=True) if full < 200]
            assert shares == pytest.approx([value / 4] * len(shares), abs=0.02)  # proportional to the value
    assert scale.colour(99.0) == scale.colour(4.0)
    assert scale.colour(-99.0) == scale.colour(-4.0)


def test_probabilities_are_neutral_at_a_half():
    scale = Scale.of("probability", [0.1, 0.2])
    assert scale.ends == (0.0, 0.5, 1.0)
    assert scale.colour(0.5) == "#ffffff"
    assert scale.strength(0.9) == pytest.approx(-scale.strength(0.1)) == pytest.approx(0.8)
    assert scale.number(0.25) == "0.250"


def test_text_is_legible_on_every_colour():
    """Contrast of at least 7 to 1 (WCAG's AAA) with the text's #1b1f24."""

    def luminance(rgb):
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    ink = luminance(_rgb("#1b1f24"))
    for value in (-1.0, -0.5, 0.0, 0.5, 1.0):
        assert (luminance(_rgb(Scale(0.0, 1.0).colour(value))) + 0.05) / (ink + 0.05) >= 7


@pytest.mark.parametrize(
    ("reach", "value", "written"),
    [(7.25, 2.134, "+2.13"), (0.05, -0.0031, "-0.0031"), (120.0, 3.7, "+4"), (1.0, -0.001, "+0.00")],
)
def test_numbers_have_three_significant_digits_of_the_largest(reach, value, written):
    assert Scale(0.0, reach).number(value) == written


def test_scale_of_zeros_and_of_nothing():
    assert Scale.of("log_ratio", [0.0, 0.0]).colour(0.0) == "#ffffff"
    assert Scale.of("log_ratio", []).reach == 1.0


def test_strip_escapes_text_and_shows_every_number():
    strip = HeatStrip("response <0>", ["<script>alert(1)</script>", "b & c"], [1.0, -2.0], Scale(0.0, 2.0))
    html = strip._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "response &lt;0&gt;" in html
    assert "b &amp; c" in html
    assert html.count("+1.00") == 1
    assert html.count("◂ lowest") == 1
    assert html.index("◂ lowest") > html.index("-2.00</span>")
