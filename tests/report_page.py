"""For the tests of label reports: examples that are judged, and what a browser makes of a page."""

import html.parser
import json

import numpy as np


class Page(html.parser.HTMLParser):
    """What a browser would make of the page: its elements, its text, its scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.scripts, self.styles = [], [], [], []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        kind = {"script": self.scripts, "style": self.styles}.get(self._inside, self.text)
        kind.append(data)

    @property
    def data(self):
        return json.loads(self.scripts[0])


def examples_of(size=400, num_classes=4, seed=0, share=0.3):
    """Examples whose model is right about nearly all labels, of which some are wrong."""
    rng = np.random.default_rng(seed)

    def quantities(truth, label):
        z = rng.normal(size=(len(truth), num_classes))
        z[np.arange(len(truth)), truth] += 6
        log_probability = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        others = log_probability.copy()
        others[np.arange(len(truth)), label] = -np.inf
        margin = log_probability[np.arange(len(truth)), label] - others.max(axis=1)
        return {"label": label, "margin": margin, "log_probability": log_probability}

    truth = rng.integers(0, num_classes, size)
    label = np.where(rng.random(size) < share, (truth + 1) % num_classes, truth)
    examples = quantities(truth, label) | {"true_label": truth, "index": np.arange(size) + 5}
    examples |= {"visits": np.full(size, 9), "weight": rng.random(size), "alignment": label - truth}
    calibration = rng.integers(0, num_classes, 100)
    return examples, quantities(calibration, calibration)
