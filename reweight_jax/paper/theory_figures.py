"""Lemma 1, Theorem 2 and Eq. 12, drawn and as a table of what is stated and what is found."""

import functools
import pathlib

import jax
import numpy as np

from reweight_jax.paper import style, tables, theory
from reweight_jax.records import plots
from reweight_jax.records.workdir import write_atomically
from reweight_jax.reweight import epsilon_gradient

OURS, STATED, SOUND = "#D55E00", "#0072B2", "#009E73"
RATE_FROM = 100  # the step from which on the slope is fitted


def write(path: pathlib.Path, *, num_steps: int = 10_000, num_seeds: int = 5) -> None:
    """Writes `path`.md, .csv, and the PNGs `path`_lemma1, _theorem2 and _eq12.

    `num_steps` and `num_seeds`: of Theorem 2's runs.
    """
    rows = lemma_1(path.with_name(path.name + "_lemma1.png"))
    options = {"num_steps": num_steps, "num_seeds": num_seeds}
    rows += theorem_2(path.with_name(path.name + "_theorem2.png"), **options)
    rows += equation_12(path.with_name(path.name + "_eq12.png"))
    text = tables.markdown(["", "stated", "found"], [list(row.values()) for row in rows])
    write_atomically(path.with_suffix(".md"), text)
    write_atomically(path.with_suffix(".csv"), tables.to_csv(rows))


def lemma_1(path: pathlib.Path) -> list[dict]:
    """Draws the change of the clean loss by the step size, and the clean loss over steps."""
    alphas = np.geomspace(0.5, 80, 400)
    rises = theory.rise_of_copies(alphas, 8)
    figure, ((left, right),) = style.new_figure(1, 2, size=(9, 4.4))
    left.plot(alphas, rises, color=OURS, lw=2.2, label="G after the step minus before")
    left.axhline(0, color="gray", lw=0.8)
    left.fill_between(alphas, 0, rises, where=rises > 0, color=OURS, alpha=0.2, label="G rises")
    left.axvline(8, color=SOUND, lw=1.8, label="2 / (Lσ²): sound for every n")
    for n, dashes in ((2, ":"), (8, "--")):
        left.axvline(8 * n, color=STATED, lw=1.8, ls=dashes, label=f"2n / (Lσ²) as stated, n = {n}")
    left.set(xscale="log", xlabel="step size α", ylabel="change of the clean loss G")
    left.set_title("n copies of one example, one step", fontsize=10)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=3, frameon=False, fontsize=9)

    n, shown = 100, {}
    for sound, color, text in ((False, STATED, "2n"), (True, SOUND, "2")):
        runs = shown[sound] = [theory.lemma_run(n, sound=sound, seed=seed) for seed in range(5)]
        for seed, losses in enumerate(runs):
            name = f"α = {text} / (Lσ²)" if seed == 0 else None
            right.plot(np.arange(1, len(losses) + 1), losses, color=color, lw=1.2, label=name)
    right.set(xscale="log", xlabel="step", ylabel="clean loss G")
    right.set_title("random batches, n = 100, 45% wrong labels, 5 seeds", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    plots.save(figure, path)
    share = {sound: np.mean([np.diff(g) > 1e-6 for g in runs]) for sound, runs in shown.items()}
    first = alphas[rises > 0][0]
    copies = theory.rise_of_copies(np.array([8.0, 64.0]), 8)
    lemma = "Lemma 1: G never rises for α ≤ 2n / (Lσ²)"
    return [
        {
            "claim": f"{lemma}; 8 copies of one example, α = 64",
            "stated": "change of G at most 0",
            "found": f"{copies[1]:+.2f}; G rises from α = {first:.1f} on: it fails for n > 1",
        },
        {
            "claim": "with 2 / (Lσ²) instead, α = 8",
            "stated": "change of G at most 0",
            "found": f"{copies[0]:+.2f}",
        },
        {
            "claim": f"{lemma}; random batches of 100, 5 x 199 steps",
            "stated": "no step raises G",
            "found": f"{share[False]:.1%} of the steps raise it; with 2 / (Lσ²) {share[True]:.1%}",
        },
    ]


def theorem_2(path: pathlib.Path, *, num_steps: int, num_seeds: int) -> list[dict]:
    """Draws the smallest mean squared gradient of the clean loss so far, against the step."""
    figure, ((axes,),) = style.new_figure(size=(6.5, 4.2))
    steps, rows = np.arange(1, num_steps + 1), []
    options = {"num_steps": num_steps, "num_seeds": num_seeds}
    lines = {"Eq. 30, as in the proof, α = 1": (False, 1.0, SOUND)}
    lines |= {"Algorithm 1, weights of sum one, α = 0.1": (True, 0.1, OURS)}
    for name, (normalized, alpha, color) in lines.items():
        norms, losses = theory.gradient_norms(normalized=normalized, alpha=alpha, **options)
        for seed in norms:
            axes.plot(steps, np.minimum.accumulate(seed), color=color, lw=0.6, alpha=0.5)
        smallest = np.minimum.accumulate(norms.mean(axis=0))
        slope = theory.slope(smallest, RATE_FROM)
        axes.plot(steps, smallest, color=color, lw=2.4, label=f"{name}: slope {slope:.2f}")
        rises = np.mean(np.diff(losses) > 1e-6)
        rows.append(
            {
                "claim": f"Theorem 2: min |∇G|² ≤ C / √T; {name}",
                "stated": f"slope at most -0.5 (fitted from step {RATE_FROM} on)",
                "found": f"{slope:.2f}; G rose in {rises:.1%} of the steps; {num_seeds} seeds",
            }
        )
    reference = smallest[RATE_FROM - 1] * np.sqrt(RATE_FROM / steps)
    axes.plot(steps[9:], 2 * reference[9:], color="black", ls="--", lw=1.2, label="C / √T")
    axes.set(xscale="log", yscale="log", xlabel="step T", ylabel="min over t < T of mean |∇G|²")
    axes.set_title("MLP on digits, 40% wrong labels; thin: single seeds", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    plots.save(figure, path)
    return rows


def equation_12(path: pathlib.Path) -> list[dict]:
    """Draws Eq. 12, by hand in float64, against automatic differentiation of Eqs. 5 to 7."""
    weights = theory.init_mlp((64, 32, 16, 10), seed=0)
    (inputs, labels), clean = theory.noisy_digits(20, seed=0)
    batch = inputs[20:220], labels[20:220]
    by_hand = theory.equation_12(weights, batch, clean)
    figure, ((axes,),) = style.new_figure(size=(4.6, 4.2))
    rows = []
    for method, marker in (("lookahead", "o"), ("jvp", "x")):
        gradient = functools.partial(epsilon_gradient, theory.mlp_losses, method=method)
        found = np.asarray(jax.jit(gradient)(weights, batch, clean))
        look = {"color": [OURS, STATED][method == "jvp"], "mfc": "none", "ls": "", "ms": 5}
        axes.plot(by_hand, found, marker=marker, label=method, **look)
        error = np.abs(found - by_hand).max() / np.abs(by_hand).max()
        rows.append(
            {
                "claim": f"Eq. 12 on an MLP, 200 examples, method={method!r}",
                "stated": "equal",
                "found": f"largest difference {error:.0e} of the largest value (float32)",
            }
        )
    low_high = [by_hand.min(), by_hand.max()]
    axes.plot(low_high, low_high, color="gray", lw=0.8, zorder=0)
    axes.set(xlabel="Eq. 12, by hand", ylabel="∂ clean loss / ∂ε, by automatic differentiation")
    axes.legend(frameon=False, fontsize=9)
    plots.save(figure, path)
    return rows
