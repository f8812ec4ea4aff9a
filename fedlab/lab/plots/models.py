"""Models: the weights of layers, and paths of local training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from torch import Tensor

from fedlab.lab.plots.labels import label_points
from fedlab.lab.plots.picture import Picture, Trace
from fedlab.lab.plots.style import CLIENT_COLOURS, caption, style_axes


def weights(
    matrices: Mapping[str, Tensor],
    title: str = "",
    earlier: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Picture:
    """Plot the sizes of layers' weights as shades, one row per unit; zeros are white.

    Args:
        matrices: Weights ``[out, in, ...]`` by the layer's name.
        title: Line above the picture.
        earlier: Earlier models by name; the last two are drawn pale below.

    Returns:
        The picture; its table counts the weights that are left, one row per layer.
    """
    models = {"": matrices} | dict(list((earlier or {}).items())[:-3:-1])
    rows = [
        {"model": name or title, "of": layer, "weights": p.numel(), "left": int((p != 0).sum())}
        for name, layers in models.items()
        for layer, p in layers.items()
    ]
    table = pd.DataFrame(rows).assign(share=lambda t: t["left"] / t["weights"])
    shares = ", ".join(
        f"{100 * row.share:.0f} % of {row.of}" for row in table.head(len(matrices)).itertuples()
    )
    picture = Picture(f"{title}; left: {shares}", (7.6, 3.1 + 2.5 * (len(models) - 1)), table)
    heights = [1.0] + [0.75] * (len(models) - 1)
    panels = picture.subplots(len(models), len(matrices), squeeze=False, height_ratios=heights)
    for line, (name, layers) in zip(panels, models.items(), strict=True):
        for axes, (layer, p) in zip(line, layers.items(), strict=True):
            sizes = p.detach().abs().flatten(1).numpy(force=True)
            _draw_sizes(axes, sizes, layer, pale=bool(name))
        line[0].annotate(
            name, (0, 1), (0, 16), "axes fraction", "offset points", fontsize=9, color="#555555"
        )
    picture.suptitle(title, x=0.01, ha="left", fontsize=9, color="#555555")
    return picture


def _draw_sizes(axes: Axes, sizes: np.ndarray, name: str, *, pale: bool) -> None:
    """Draw sizes ``[units, inputs]`` as shades."""
    axes.imshow(
        np.ma.masked_equal(sizes, 0),
        cmap="viridis_r",
        vmin=0,
        vmax=np.quantile(sizes[sizes > 0], 0.99) if sizes.any() else 1,
        aspect="auto",
        interpolation="nearest",
        alpha=0.5 if pale else 1,
    )
    units, inputs = sizes.shape
    axes.set(
        xlabel=f"{name}: inputs", ylabel="units", xticks=[0, inputs - 1], yticks=[0, units - 1]
    )
    axes.set_title(f"{100 * (sizes != 0).mean():.0f} % left", fontsize=9, color="#555555")


def paths(
    tracks: np.ndarray,
    *,
    loss: Callable[[np.ndarray], np.ndarray] | None = None,
    marks: Mapping[str, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    title: str = "",
) -> Picture:
    """Plot the paths of clients in a round, one dot per local step.

    In more than two dimensions, the picture shows the plane through the start that holds most of
    the moves. Marks are projected onto it.

    Args:
        tracks: Models ``[m, K + 1, d]`` after 0 to K local steps from a common start.
        loss: Loss of models, ``[n, d] -> [n]``, drawn as contours.
        marks: More models ``[d]`` by name, such as the optimum.
        names: Names of the clients.
        title: Line above the picture.

    Returns:
        The picture.

    Raises:
        ValueError: For tracks of another shape, or without a common start.

    Example:
        >>> from fedlab.study import quadratics
        >>> tracks = quadratics(2, seed=1).paths(np.zeros(2), lr=0.2, steps=5)
        >>> paths(tracks).alt
        '5 local steps of 2 clients; moved by: client 0 1.2, client 1 0.15'
    """
    tracks = np.asarray(tracks, dtype=float)
    _check_tracks(tracks)
    start, d = tracks[0, 0], tracks.shape[2]
    names = names or [f"client {i}" for i in range(len(tracks))]
    plane, share = _main_plane(tracks - start)
    origin = start if d == 2 else np.zeros(2)  # of the picture's coordinates
    flat = origin + (tracks - start) @ plane.T  # [m, K + 1, 2]
    spots = {
        name: origin + plane @ (np.asarray(mark, dtype=float) - start)
        for name, mark in (marks or {}).items()
    }
    picture = Picture(_describe_tracks(tracks, names), (6.4, 4.8))
    kind = "coordinate" if d == 2 else "main direction"
    axes = style_axes(picture.subplots(), f"{kind} 1", f"{kind} 2")
    axes.grid(visible=False)
    _set_limits(axes, np.concatenate([flat.reshape(-1, 2), *([spot] for spot in spots.values())]))
    if loss is not None:
        _draw_contours(axes, lambda at: loss(start + (at - origin) @ plane))
    label_points(axes, _draw_tracks(picture, flat, names) + _draw_spots(axes, flat, spots))
    in_plane = "" if d == 2 else f"; the plane holds {share:.0%} of the moves"
    caption(axes, title or f"one dot per local step{in_plane}")
    return picture


def _check_tracks(tracks: np.ndarray) -> None:
    flat = tracks.ndim != 3 or min(tracks.shape[1:]) < 2
    if flat or not np.allclose(tracks[:, 0], tracks[:1, 0]):
        raise ValueError(
            f"tracks {list(tracks.shape)} must be [clients, steps + 1, d] from one start, with at "
            "least 1 step and 2 dimensions. Try quadratics(3).paths(w, lr=0.1, steps=5)"
        )


def _describe_tracks(tracks: np.ndarray, names: Sequence[str]) -> str:
    far = ", ".join(
        f"{name} {np.linalg.norm(way[-1] - way[0]):.2g}"
        for name, way in zip(names, tracks, strict=True)
    )
    steps = tracks.shape[1] - 1
    return f"{steps} local steps of {len(tracks)} clients; moved by: {far}"


Named = list[tuple[np.ndarray, np.ndarray, str, str]]  # point, preferred direction, name, colour


def _draw_tracks(picture: Picture, flat: np.ndarray, names: Sequence[str]) -> Named:
    """Draw the paths ``[m, K + 1, 2]``, and return the points to name."""
    axes, named = picture.axes[0], []
    for way, name, colour in zip(flat, names, cycle(CLIENT_COLOURS)):
        artists = axes.plot(*way.T, color=colour, linewidth=1.3, marker="o", markersize=2.5)
        artists += axes.plot(*way[-1], color=colour, marker="o", markersize=6)
        texts = [f"after {k} local steps" for k in range(len(way))]
        picture.traces.append(Trace(name, axes, artists, *way.T, texts, colour))
        named.append((way[-1], way[-1] - way[0], name, colour))
    return named


def _draw_spots(axes: Axes, flat: np.ndarray, spots: Mapping[str, np.ndarray]) -> Named:
    """Draw the start and the marks, and return the points to name."""
    start, away = flat[0, 0], flat[0, 0] - flat[:, -1].mean(0)
    named = []
    for name, spot in {"start": start, **spots}.items():
        marker = "s" if name == "start" else "X"
        axes.plot(*spot, color="black", marker=marker, markersize=7, markeredgecolor="white")
        named.append((spot, away, name, "black"))
    return named


def _main_plane(moves: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the two directions ``[2, d]`` of the largest moves, and their share of squares."""
    if moves.shape[-1] == 2:
        return np.eye(2), 1.0
    _, s, directions = np.linalg.svd(moves.reshape(-1, moves.shape[-1]), full_matrices=False)
    return directions[:2], float((s[:2] ** 2).sum() / max((s**2).sum(), 1e-300))


def _set_limits(axes: Axes, points: np.ndarray) -> None:
    """Set limits around ``points [n, 2]``, with room for names and one scale for both axes."""
    middle, half = (points.max(0) + points.min(0)) / 2, (points.max(0) - points.min(0)) / 2
    height = max(1.25 * half[1], 1.5 * half[0] / 1.35, 1e-12)
    axes.set(
        xlim=middle[0] + np.array([-1.35, 1.35]) * height,
        ylim=middle[1] + np.array([-1, 1]) * height,
    )
    axes.set_aspect("equal")


def _draw_contours(axes: Axes, value: Callable[[np.ndarray], np.ndarray]) -> None:
    """Draw level lines of ``value(points [n, 2]) -> [n]``, closer together near the lowest."""
    x, y = np.meshgrid(np.linspace(*axes.get_xlim(), 61), np.linspace(*axes.get_ylim(), 61))
    z = np.asarray(value(np.stack([x.ravel(), y.ravel()], 1))).reshape(x.shape)
    lowest, height = z.min(), np.ptp(z)
    levels = lowest + height * np.linspace(0.05, 1, 12) ** 2
    shades = {"cmap": "Greys", "vmin": lowest, "vmax": lowest + 2.5 * height}
    axes.contourf(x, y, z, levels=[lowest - 1, *levels], **shades)
    axes.contour(x, y, z, levels=levels, colors="#999999", linewidths=0.6)
