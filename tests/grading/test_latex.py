import pytest

from implicit_prm.grading.latex import readable


@pytest.mark.parametrize(
    ("answer", "tex"),
    [
        ("5²", "5^{2}"),
        ("x₁₂", "x_{12}"),
        ("2√3 − √(x+1)", r"2\sqrt{3} - \sqrt{x+1}"),
        ("2π", r"2\pi"),
        ("90°", r"90^\circ"),
        ("½", r"\frac{1}{2}"),
        ("12 345 678", "12345678"),
        ("1 2", "1 2"),
        (r"0.\overline{3}", r"\frac{1}{3}"),
        (r"1.2\bar{3}", r"\frac{37}{30}"),
        (r"-0.1\overline{6}", r"-\frac{1}{6}"),
        (r"12\text{ cm}^2", "12"),
        (r"\frac{1}{2} \mathrm{kg}", r"\frac{1}{2}"),
        ("12 square feet", "12"),
        ("12 cm", "12"),
        ("12th", "12"),
        (r"12^{\text{th}} \text{ grade}", "12"),
        (r"12\text{th grade}", "12"),
        ("12^{th}", "12"),
        ("Three", "3"),
        ("12 miles/hour", "12"),
        (r"\$2.5 \text{ million}", r"\$2.5 \times 1000000"),
        ("3 dozen eggs", r"3 \times 12"),
        (r"15^{-1}\equiv 29\pmod{31}", "29"),
    ],
)
def test_what_is_written_for_people_becomes_tex(answer, tex):
    assert readable(answer) == (tex, False)


@pytest.mark.parametrize(
    "answer",
    [
        *("5x", "2 ab", "5m", "3 or more", "Evelyn", "2 thirds", "2 am", "x_1", r"2\pi", r"7\sin x", r"2\text{ pm}"),
        *(r"5 \text{ or } 6", r"\text{Monday}", r"5\text{ ft }3", r"\frac{5\text{ cm}}{2}"),
    ],
)
def test_mathematics_is_no_unit(answer):
    assert readable(answer) == (answer, False)


@pytest.mark.parametrize("answer", ["50%", r"50\%", "50 percent", "50 per cent", r"50 \%"])
def test_percentages(answer):
    assert readable(answer) == ("50", True)
