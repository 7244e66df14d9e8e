"""How methods look in every figure: one colour, marker and name each, whatever the figure."""

from matplotlib.figure import Figure

# Of Okabe and Ito (2008), which the colour-blind can tell apart. `proportion` and `weighted`, which
# both weigh classes by what they know of them, share one; no figure has both.
COLORS = {
    "baseline": "#000000",
    "random": "#56B4E9",
    "proportion": "#E69F00",
    "weighted": "#E69F00",
    "resample": "#0072B2",
    "mentornet": "#0072B2",
    "hard_mining": "#CC79A7",
    "reed_soft": "#E8A8CE",
    "reed_hard": "#CC79A7",
    "s_model": "#009E73",
    "s_model_conf": "#00573F",
    "clean_only": "#999999",
    "reweight": "#D55E00",
}
MARKERS = {"baseline": "s", "random": "v", "proportion": "D", "resample": "^", "hard_mining": "P"}
MARKERS |= {"s_model": "D", "s_model_conf": "p", "reweight": "o"}
# Choice of model -> style of the line, marker (None: the method's), and what is added to its name.
CHOICES = {
    "": ("-", None, ""),
    "+ES": (":", "v", " +ES"),
    "+FT": ("--", "^", " +FT"),
    "+ES+FT": ("-.", "d", " +ES+FT"),
    "stopped": ((0, (5, 1, 1, 1, 1, 1)), "x", ", stopped on clean data"),
    "retrained": ((0, (3, 1)), "*", ", retrained"),
}


def new_figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float]) -> tuple:
    """Returns a Figure and its axes, [rows, columns]; `size` is of the whole, in inches."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def label(method: str, choice: str = "") -> str:
    """Returns the name of a method under a choice of model, such as "baseline +ES"."""
    return method + CHOICES[choice][2]


def line(method: str, choice: str = "") -> dict:
    """Returns the keywords of `Axes.errorbar` for a method's line."""
    return {
        "color": COLORS.get(method, "#999999"),
        "marker": CHOICES[choice][1] or MARKERS.get(method, "o"),
        "ms": 6,
        "lw": 2.5 if method == "reweight" else 1.4,
        "ls": CHOICES[choice][0],
        "capsize": 3,
        "label": label(method, choice),
    }
