"""Clients: the examples they hold, and the devices they run on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fedlab.core import FederatedDataset
from fedlab.core.names import quote_name
from fedlab.lab.plots.labels import name_parts
from fedlab.lab.plots.picture import NAMES, Picture, Trace
from fedlab.lab.plots.style import CLIENT_COLOURS, caption, class_colours, span, style_axes
from fedlab.system import Fleet
from fedlab.system.devices import devices as known_devices

MAX_CLIENTS = 100  # clients with bubbles: beyond, columns would be narrower than bubbles


def partition(data: FederatedDataset, title: str = "") -> Picture:
    """Plot a stacked bar per client: its number of examples of each class.

    Args:
        data: Clients with class labels.
        title: Line above the picture; default: its description.

    Returns:
        The picture.

    Example:
        >>> from fedlab.data import iid, load
        >>> partition(load("digits", 10, iid())).alt
        '10 clients hold 143 to 144 examples each'
    """
    counts = data.counts()  # [N, classes]
    empty = int((data.sizes == 0).sum())
    alt = f"{data.num_clients} clients hold {data.sizes.min()} to {data.sizes.max()} examples each"
    alt += f"; {empty} of them hold none" if empty else ""
    picture = Picture(alt, (5.6 + NAMES, 3.2), names=NAMES)
    axes = style_axes(picture.subplots(), "client", "training examples")
    clients, floor = np.arange(data.num_clients), np.zeros(data.num_clients)
    shades = class_colours(counts.shape[1])
    for c, name in enumerate(data.classes):
        height = counts[:, c]
        artists = axes.bar(clients, height, bottom=floor, color=shades[c], width=0.9)
        held = np.flatnonzero(height)
        artists = [artists[i] for i in held]
        texts = [f"client {i}: {height[i]} examples" for i in held]
        places = clients[held], (floor + height / 2)[held]
        picture.traces.append(Trace(f"class {name}", axes, artists, *places, texts, shades[c], ""))
        floor += height
    axes.margins(x=0.01)
    name_parts(picture, axes)
    caption(axes, title or alt)
    return picture


def client_bubbles(
    data: FederatedDataset, title: str = "", earlier: Mapping[str, FederatedDataset] | None = None
) -> Picture:
    """Plot a bubble per client and class, whose area is the number of examples.

    Bars above show each client's number of examples. At most the first 100 clients are shown.

    Args:
        data: Clients with class labels.
        title: Line above the picture; default: its description.
        earlier: Earlier splits by name; the newest is drawn as pale rings.

    Returns:
        The picture; its table has the counts.

    Example:
        >>> from fedlab.data import iid, load
        >>> client_bubbles(load("digits", 10, iid())).alt
        '10 clients hold 10 of 10 classes and 143 to 144 examples each'
    """
    counts = data.counts()[:MAX_CLIENTS]  # [N, classes]
    n, classes = counts.shape
    held = span((counts > 0).sum(1))
    alt = f"{n} clients hold {held} of {classes} classes and {span(counts.sum(1))} examples each"
    alt += f"; they are the first of {data.num_clients}" if n < data.num_clients else ""
    table = pd.DataFrame(counts, columns=list(data.classes)).rename_axis("client").reset_index()
    picture = Picture(alt, (7.2, min(7.0, 2.2 + 0.2 * classes)), table)
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=[1, 1 + 0.2 * classes])
    style_axes(above, "", "examples").bar(np.arange(n), counts.sum(1), color="#7F7F7F", width=0.8)
    style_axes(below, "client", "class").set_axisbelow(True)
    widest = 72 * np.clip(6.2 / n, 0.14, 0.22)  # points: a cell, or more where cells are narrow
    splits = {name: split.counts()[:n] for name, split in (earlier or {}).items()}
    area = widest**2 / max([counts.max(), *(before.max() for before in splits.values())])
    client, c = counts.nonzero()
    shades = class_colours(classes)[c]
    drawn = below.scatter(client, c, s=area * counts[client, c], c=shades, linewidths=0)
    cells = list(zip(client, c, strict=True))
    texts = [f"client {i}: {counts[i, k]} of class {data.classes[k]}" for i, k in cells]
    picture.traces.append(Trace("", below, [drawn], client, c, texts))
    for name, before in list(splits.items())[-1:]:
        _draw_rings(above, below, before, area)
        about = f"rings and thin line: {name}"
        below.set_title(about, loc="left", fontsize=8, color="#555555")
    below.set(xlim=(-0.7, n - 0.3), ylim=(classes - 0.4, -0.6))
    below.set_yticks(np.arange(classes), data.classes, fontsize=8 if classes <= 12 else 6)
    caption(above, title or alt)
    return picture


def _draw_rings(above: Axes, below: Axes, counts: np.ndarray, area: float) -> None:
    """Draw an earlier split: rings for bubbles, and a line for the bars above."""
    client, c = counts.nonzero()
    rings = {"facecolors": "none", "edgecolors": "#999999", "linewidths": 0.8}
    below.scatter(client, c, s=area * counts[client, c], **rings)
    line = {"where": "mid", "color": "#999999", "linewidth": 0.8}
    above.step(np.arange(len(counts)), counts.sum(1), **line)


def sample_images(
    data: FederatedDataset, clients: Sequence[int] = (0, 1, 2, 3), *, each: int = 8, title: str = ""
) -> Picture:
    """Show the first images of some clients: one row per client, with the class above each.

    All images have the same shades.

    Args:
        data: Clients whose examples are ``[H, W]``, ``[C, H, W]``, or a flattened square.
        clients: Clients to show.
        each: Number of images per client.
        title: Line above the picture.

    Returns:
        The picture.

    Raises:
        ValueError: If examples are no images, or the clients hold none.

    Example:
        >>> from fedlab.data import iid, load
        >>> sample_images(load("digits", 10, iid()), [0, 3], each=5).alt
        'The first 5 pictures of 2 clients; client 0 holds 144, client 3 holds 144'
    """
    rows = [data.parts[i][:each] for i in clients]
    ids = np.concatenate(rows) if rows else np.array([], dtype=int)
    if len(ids) == 0:
        raise ValueError(
            f"clients={list(clients)} must hold an example, and hold none. Try np.flatnonzero("
            "data.sizes)[:4]"
        )
    images = dict(zip(ids, _as_images(data.x[ids].numpy(force=True)), strict=True))
    sizes = ", ".join(f"client {i} holds {data.sizes[i]}" for i in clients)
    alt = f"The first {max(map(len, rows))} pictures of {len(rows)} clients; {sizes}"
    picture = Picture(alt, (7.2, 0.35 + 7.2 * 1.25 * len(rows) / (each + 1)))
    axes = picture.subplots()
    for down, (i, row) in enumerate(zip(clients, rows, strict=True)):
        axes.text(-0.1, 1.25 * down + 0.5, f"client {i}", ha="right", va="center")
        for right, k in enumerate(row):
            y = data.y[k]
            label = data.classes[int(y)] if data.classes else f"{float(y):.3g}"
            _draw_image(axes, images[k], right, 1.25 * down, label)
    axes.set(xlim=(0, each), ylim=(1.25 * len(rows) - 0.25, -0.2))
    axes.set_axis_off()
    caption(axes, title)
    return picture


def _draw_image(axes: Axes, image: np.ndarray, left: float, top: float, label: str) -> None:
    axes.imshow(
        image, extent=(left, left + 0.94, top + 0.97, top + 0.03), cmap="gray_r", vmin=0, vmax=1
    )
    style = {"ha": "center", "va": "bottom", "fontsize": 7, "color": "#555555"}
    axes.text(left + 0.47, top, label, **style)


def _as_images(x: np.ndarray) -> np.ndarray:
    """Return examples as images from 0 to 1, ``[n, H, W]`` or ``[n, H, W, 3]``."""
    side = round(x[0].size ** 0.5)
    if x.ndim == 2 and side * side == x.shape[1]:
        x = x.reshape(-1, side, side)
    if x.ndim == 4 and x.shape[1] in (1, 3):
        x = x[:, 0] if x.shape[1] == 1 else x.transpose(0, 2, 3, 1)
    elif x.ndim != 3:
        raise ValueError(
            f"examples of shape {list(x.shape[1:])} are no pictures, and must be [H, W], "
            "[1 or 3, H, W] or a square. Try load('digits')"
        )
    low, high = np.percentile(x, [0.1, 99.9])  # a few wild numbers do not dim the rest
    return np.clip((x - low) / max(high - low, 1e-12), 0, 1)


def fleet(devices: Fleet, title: str = "") -> Picture:
    """Plot a dot per client: its compute speed against its upload speed, coloured by device.

    Args:
        devices: Devices and links of the clients.
        title: Line above the picture.

    Returns:
        The picture; its table has one row per client.
    """
    table = devices.table()
    rank = {name: k for k, name in enumerate(known_devices())}  # others, from a file, come last
    counts = table["device"].value_counts()
    counts = counts.loc[sorted(counts.index, key=lambda name: rank.get(name, len(rank)))]
    kinds = ", ".join(f"{n} {quote_name(name or 'devices')}" for name, n in counts.items())
    limits = {name: table[name].quantile([0, 1]) for name in ("gigaflops", "up_mbit")}
    spread = "; ".join(f"{name} from {q[0]:.3g} to {q[1]:.3g}" for name, q in limits.items())
    columns = ["device", "link", "gigaflops", "up_mbit", "watts"]
    size = (5.6 + NAMES, 3.8)
    picture = Picture(f"{kinds}; {spread}", size, table[columns], names=NAMES)
    axes = style_axes(picture.subplots(), "GFLOP/s that training reaches", "Mbit/s up")
    axes.set(xscale="log", yscale="log")
    for name, colour, marker in zip(counts.index, cycle(CLIENT_COLOURS), cycle("os^Dv")):
        kind = table[table["device"] == name]
        style = {"color": colour, "markersize": 5, "alpha": 0.75}
        artists = axes.plot(kind["gigaflops"], kind["up_mbit"], marker, **style)
        texts = [
            f"client {i}\n{row.gigaflops:.3g} GFLOP/s\n{row.up_mbit:.3g} Mbit/s up"
            for i, row in kind.iterrows()
        ]
        places = kind["gigaflops"], kind["up_mbit"]
        picture.traces.append(Trace(name or "client", axes, artists, *places, texts, colour, ""))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    name_parts(picture, axes)
    caption(axes, title)
    return picture
