"""The implementation `dense`: the kernel into which the branches are folded."""

from rfnext.ops.dense import dense_grid
from rfnext.ops.geometry import Geometry


def test_the_dense_kernel_has_the_coarsest_grid() -> None:
    def grid(*dilations: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        branches, padding = tuple((d,) for d in dilations), tuple(((d, d),) for d in dilations)
        found = dense_grid(Geometry((3,), branches, (1,), padding, 1, "zeros", (100,), (100,)))
        return found.size, found.step

    assert grid(16, 32) == ((5,), (16,))
    assert grid(1, 2, 3) == ((7,), (1,))
    assert grid(90, 100, 110) == ((23,), (10,))
    assert grid(7) == ((3,), (7,))
