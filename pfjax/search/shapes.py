"""Results of users' functions in words."""

import jax


def shapes_of(found: object) -> str:
    """Abstract arrays as one writes them.

    >>> shapes_of((jax.ShapeDtypeStruct((1, 4), "float32"), None))
    '(float32[1, 4], None)'
    """
    if isinstance(found, tuple):
        return f"({', '.join(map(shapes_of, found))})"
    if isinstance(found, jax.ShapeDtypeStruct):
        return f"{found.dtype}[{', '.join(map(str, found.shape))}]"
    return repr(found)
