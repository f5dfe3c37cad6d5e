"""The plot of sparsity against loss."""

from workbench.figures.frame import reading
from workbench.figures.pareto import front, pareto

POINTS = [(8, 0.90), (32, 0.97), (16, 0.88), (64, 0.97), (4, 0.5), (8, 0.7)]


def test_the_front_is_what_no_other_betters() -> None:
    def bettered(i: int) -> bool:
        x, y = POINTS[i]
        return any(a <= x and b >= y and (a, b) != (x, y) for a, b in POINTS)

    assert front(POINTS) == sorted((i for i in range(len(POINTS)) if not bettered(i)), key=lambda i: POINTS[i])
    assert front([]) == []


def test_every_sae_is_a_point_of_its_group() -> None:
    figure = pareto([f"<b>{i}</b>" for i in range(6)], ["topk", "topk", "gated", "gated", "topk", "gated"], POINTS)
    line, topk, gated = figure.data
    assert list(zip(line.x, line.y, strict=True)) == [(4, 0.5), (8, 0.9), (32, 0.97)]
    assert list(topk.x) == [8, 32, 4]
    assert list(gated.y) == [0.88, 0.97, 0.7]
    assert topk.customdata[0] == "&lt;b&gt;0&lt;/b&gt;"
    assert figure.layout.xaxis.type == "log"
    assert "loss recovered" in reading(figure)
