"""Random calls of the operator, drawn by hypothesis."""

from hypothesis import strategies as st

from tests.rfnext.ops.cases import NUMPY_MODE, Case, kept


@st.composite
def cases(draw: st.DrawFn) -> Case:
    axes = draw(st.integers(1, 3))

    def per_axis(values: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(values) for _ in range(axes))

    kernel = per_axis(st.sampled_from([1, 2, 3, 5]))
    # Dilations beyond the input are as welcome as small ones.
    dilations = tuple(per_axis(st.sampled_from([1, 2, 3, 4, 11])) for _ in range(draw(st.integers(1, 4))))
    shift, causal = draw(st.integers(-2, 2)), per_axis(st.booleans())
    return Case(
        size=per_axis(st.integers(1, 8)),
        kernel=kernel,
        dilations=dilations,
        padding=tuple(kept(kernel, dilation, shift, causal) for dilation in dilations),
        stride=(*per_axis(st.integers(1, 3)), 1, 1),
        batch=draw(st.integers(1, 3)),
        groups=draw(st.sampled_from([1, 1, 2, 3])),
        # 1 and 1 per group is depthwise; 8 and more per group take another way through `taps`.
        channels=draw(st.sampled_from([(1, 1), (1, 2), (2, 3), (8, 8), (9, 8)])),
        bias=draw(st.booleans()),
        mode=draw(st.sampled_from(list(NUMPY_MODE))),
    )
