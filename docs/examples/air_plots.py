"""Pictures of "attend, infer, repeat": what was learned against time, and where the family looked."""

import matplotlib.pyplot as plt

SCENE = 50
COLOURS = ("#e41a1c", "#4daf4a", "#377eb8")


def curves(reports, output=None):
    """Accuracy against epochs and against wall time, and the objective against wall time: one line for each method."""
    figure, panels = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for i, name in enumerate(dict.fromkeys(r.method for r in reports)):
        mine = [r for r in reports if r.method == name]
        style = {"label": name, "color": plt.get_cmap("tab20")(i), "marker": ".", "linewidth": 1}
        epochs, minutes = [r.epoch for r in mine], [r.seconds / 60 for r in mine]
        panels[0].plot(epochs, [r.accuracy for r in mine], **style)
        panels[1].plot(minutes, [r.accuracy for r in mine], **style)
        panels[2].plot(minutes, [r.held_out_elbo for r in mine], **style)
    for axes in panels:
        axes.set(xlabel="minutes, compilation included", xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:2]:
        axes.set(ylabel="share of held-out scenes counted right", ylim=(0, 1))
        axes.axhline(0.9, color="k", linewidth=0.5, linestyle=":")
    panels[0].set_xlabel("epochs")
    panels[2].set_ylabel("held-out ELBO (nats per scene)")
    panels[2].set_ylim(bottom=max(300, min(r.held_out_elbo for r in reports)))
    panels[2].legend(frameon=False, fontsize=8)
    return _save(figure, output)


def scenes(images, counts, bits, windows, means, output=None):
    """Scenes with the windows that were attended to, step by step in red, green and blue; below what was painted."""
    n = len(images)
    figure, rows = plt.subplots(2, n, figsize=(1.3 * n, 2.9), layout="constrained", squeeze=False)
    for i in range(n):
        rows[0, i].imshow(images[i], cmap="gray", vmin=0, vmax=255)
        rows[1, i].imshow(means[i], cmap="gray", vmin=0, vmax=1)
        rows[0, i].set_title(f"{counts[i]} there", fontsize=8)
        rows[1, i].set_title(f"{int(bits[i].sum())} found", fontsize=8)
        for present, where, colour in zip(bits[i], windows[i], COLOURS, strict=True):
            if present:
                top, left, side = window(where)
                box = plt.Rectangle((left, top), side, side, fill=False, color=colour, linewidth=1)
                rows[0, i].add_patch(box)
        for axes in rows[:, i]:
            axes.set_axis_off()
            axes.set(xlim=(-0.5, SCENE - 0.5), ylim=(SCENE - 0.5, -0.5))
    return _save(figure, output)


def window(where):
    """The square that z_where = (scale, row, column) looks at: its top, its left and its side, in pixels."""
    scale, row, column = where
    top, left = (SCENE * (1.0 - (1.0 + at) / scale) / 2.0 - 0.5 for at in (row, column))
    return top, left, SCENE / scale


def _save(figure, output):
    if output is not None:
        figure.savefig(output, dpi=130)
        plt.close(figure)
    return figure
