"""label_report.html: one file of bounded size that loads nothing and that no name can break."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from report_page import Page, examples_of

from reweight_jax.labels import quality, report, sections
from reweight_jax.labels.shown import shown_inputs
from reweight_jax.labels.suspects import suspects_table

EVIL = ("</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<!--", "a&b'c")


def page_of(examples, judged, task, classes, inputs=None, rows=None, name="", **result):
    dataset = {"classes": classes, "columns": ()}
    data = {"corrections": "trusted/a&b.csv"}
    config = {"name": name, "task": task, "dataset": dataset, "data": data}
    return report.pages(config, result, examples, judged, inputs, rows)[
        "label_report.html"
    ].decode()


def make(inputs=None, rows=None, classes=("a", "b", "c", "d"), examples=None, **options):
    examples, calibration = examples or examples_of()
    judged = quality.judge(examples, calibration, task="classification", num_outputs=len(classes))
    if inputs is not None and rows is None:
        rows = judged.order[:200]
    return page_of(examples, judged, "classification", classes, inputs, rows, **options), judged


def test_summary_tables_and_cards():
    result = {"last": {"step": 9, "test_accuracy": 0.875}, "best": {"step": 7}, "seed": 3}
    page, judged = make(name="My <run>", health=["The set <i>is</i> small."], **result)
    parsed = Page(page)
    text = " ".join(" ".join(parsed.text).split())
    facts = judged.summary
    assert "My <run>" in text and "The set <i>is</i> small." in text
    assert f"at most 5% (false-alarm rate). This holds on average over sets of {100}" in text
    assert f"at most {100 * facts['rate_90']:.3g}% with 90% confidence" in text
    assert "last step 87.5%" in text
    buttons = [dict(a) for tag, a in parsed.elements if a.get("data-given")]
    assert len(buttons) == len(facts["pairs"])
    most = facts["pairs"][0]
    names = "abcd"[most["given"]], "abcd"[most["suggested"]]
    expected = f"{most['count']} suspects: given {names[0]}, suggested {names[1]}"
    assert any(button["aria-label"] == expected for button in buttons)
    cards = parsed.data["cards"]
    assert [card["index"] - 5 for card in cards] == judged.order[:200].tolist()
    assert cards[0]["action"] == "relabel" and cards[0]["suggested"] == cards[0]["truth"]


def test_a_model_that_contradicts_right_labels_or_believes_all_has_no_interval():
    examples, calibration = examples_of()
    ending = "% confidence. The estimate leaves out wrong labels that the model believes"
    judged = quality.judge(examples, calibration, task="classification", num_outputs=4)
    figures = sections.summary(examples, judged, ())
    assert f"estimate of wrong labels has 90{ending}" in figures
    assert figures.count("<small>") == 2  # of the suspects, and of the wrong labels
    believed = examples | {"margin": np.full(len(examples["label"]), 99.0)}
    judged = quality.judge(believed, calibration, task="classification", num_outputs=4)
    figures = sections.summary(believed, judged, ())
    assert judged.summary["wrong"]["high"] == 0 and "interval" not in figures
    assert "<dd>0%</dd>" in figures
    calibration["margin"] = -calibration["margin"]
    judged = quality.judge(examples, calibration, task="classification", num_outputs=4)
    assert judged.summary["contradicted"]
    figures = sections.summary(examples, judged, ())
    assert "interval" not in figures and "estimate leaves out wrong labels" in figures
    assert figures.count("<small>") == 1


def test_the_sentence_on_the_truth():
    examples = {"label": np.array([0, 1, 1, 0]), "true_label": np.array([1, 1, 0, 0])}
    judged = quality.Judgement(
        None, np.array([1, 0, 1, 0]), None, np.array([True, True, False, False]), None, None, {}
    )
    assert sections.truth(examples, judged) == (
        "The true labels are known: 2 labels of 4 are wrong. The suspects include 50% of them; "
        "50% of the suspects are really wrong, and for 100% of these the suggestion is the true "
        "label."
    )
    assert not sections.truth({"label": examples["label"]}, judged)


def test_names_are_text_and_never_markup():
    examples, calibration = examples_of()
    examples["id"] = np.array([EVIL[i % 4] + str(i) for i in range(400)])
    inputs = np.array([EVIL[i % 4] for i in range(200)])
    page, _ = make(inputs, classes=EVIL, examples=(examples, calibration), name=EVIL[0])
    plain, _ = make(np.array(["x"] * 200), examples=(examples_of()))
    evil, harmless = Page(page), Page(plain)
    assert len(evil.scripts) == 2  # the data and the program
    assert [tag for tag, _ in evil.elements] == [tag for tag, _ in harmless.elements]
    assert not [a for _, attributes in evil.elements for a in attributes if a.startswith("on")]
    assert evil.data["classes"] == list(EVIL)
    assert evil.data["cards"][0]["inputs"] == [{"text": EVIL[0]}]
    assert evil.data["cards"][1]["id"].startswith(EVIL[evil.data["cards"][1]["index"] % 4 - 1])


def test_it_loads_nothing_and_runs_only_its_own_script():
    page, _ = make()
    parsed = Page(page)
    assert "http:" not in page and "https:" not in page and "@import" not in page
    assert not [a for _, a in parsed.elements if {"src", "action", "style"} & set(a)]
    (policy,) = [a["content"] for tag, a in parsed.elements if "http-equiv" in a]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    expected = report._policy(parsed.styles[0], parsed.scripts[1])
    assert policy == expected


@pytest.mark.parametrize("side", [64, 300])
def test_at_most_5_mb_with_200_pictures_that_do_not_compress(side):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (200, side, side, 3), dtype=np.uint8)
    page, _ = make({"image": pictures, "text": np.array(["<&\U0001f600" * 999] * 200)})
    assert len(page.encode()) <= 5_000_000
    cards = Page(page).data["cards"]
    assert all(card["inputs"][0]["image"].startswith("data:image/") for card in cards)


def test_a_small_picture_is_kept_pixel_by_pixel():
    pixels = np.arange(2 * 28 * 28 * 3, dtype=np.uint8).reshape(2, 28, 28, 3)
    for inputs, expected in (
        (pixels, pixels),
        (pixels[..., :1], pixels[..., 0]),
        (pixels[..., 0], pixels[..., 0]),
        (np.moveaxis(pixels, -1, 1), pixels),  # channels first
        (pixels / np.float32(255), pixels),
    ):
        for blocks, image in zip(shown_inputs(inputs, max_bytes=10**6), expected, strict=True):
            (block,) = blocks
            assert block["small"]
            png = base64.b64decode(block["image"].partition(",")[2])
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), image)


def test_a_large_picture_is_shrunk_in_proportion():
    ((block,),) = shown_inputs(np.zeros((1, 200, 400, 3), np.uint8), max_bytes=10**6)
    jpeg = base64.b64decode(block["image"].partition(",")[2])
    assert Image.open(io.BytesIO(jpeg)).size == (160, 80) and "small" not in block


def test_text_tokens_and_features():
    assert shown_inputs(np.array(["ab", "c" * 700]), max_bytes=10**6)[1] == [
        {"text": "c" * 600, "more": 100}
    ]
    assert shown_inputs(np.arange(100)[None], max_bytes=10**6) == [
        [{"tokens": list(range(96)), "more": 4}]
    ]
    table = shown_inputs(np.array([[1.5, -2]], np.float32), ("x", "<y>"), max_bytes=10**6)
    assert table == [[{"features": [["x", "1.5"], ["<y>", "-2"]]}]]
    wide = shown_inputs({"a": np.zeros((1, 30)), "b": np.ones(1)}, max_bytes=10**6)
    assert wide[0][0]["name"] == "a" and wide[0][0]["more"] == 6
    assert wide[0][1] == {"name": "b", "features": [["0", "1"]]}


def test_inputs_stay_with_their_examples():
    _, judged = make()
    # As saved at another rate: not the worst ones at this rate, and in another order.
    rows = np.sort(judged.order[100:300])
    page, _ = make(np.array([f"row {row}" for row in rows]), rows)
    cards = Page(page).data["cards"]
    assert [card["index"] - 5 for card in cards] == judged.order[:200].tolist()
    assert not any(card["inputs"] for card in cards[:100])
    assert [card["inputs"][0]["text"] for card in cards[100:]] == [
        f"row {row}" for row in judged.order[100:200]
    ]
    page, _ = make(np.array(["none"]), judged.order[-1:])
    assert not any(card["inputs"] for card in Page(page).data["cards"])


def test_names_that_are_no_text_are_as_in_the_csv():
    examples, calibration = examples_of()
    examples["id"] = np.array(["\udcff.png"] * 400)
    page, _ = make(classes=("a\udcff", "b", "c", "d"), examples=(examples, calibration))
    data = Page(page).data
    assert data["classes"][0] == "a?" and data["cards"][0]["id"] == "?.png"


def test_trusted_examples_are_not_listed():
    examples, calibration = examples_of()
    examples["is_trusted"] = np.arange(400) >= 350
    page, judged = make(examples=(examples, calibration))
    assert examples["margin"][350:].min() < 0 and not judged.is_suspect[350:].any()
    cards = Page(page).data["cards"]
    order = [row for row in judged.order.tolist() if row < 350]
    assert [card["index"] - 5 for card in cards] == order[:200]
    table = suspects_table(examples, judged, ("a", "b", "c", "d"))
    actions = dict(zip(table["index"], table["action"], strict=True))
    assert [actions[row + 5] == "keep" for row in range(400)] == (~judged.is_suspect).tolist()


def test_many_tags_leave_room_for_fewer_examples():
    size, num_tags = 250, 3_000
    rng = np.random.default_rng(0)
    label = np.where(rng.random((size, num_tags)) < 0.01, rng.integers(0, 2, (size, num_tags)), -1)
    label[:, 0] = 1
    margin = np.where(label < 0, 0, rng.normal(size=label.shape))
    examples = {"index": np.arange(size), "label": label, "margin": margin}
    examples |= {"visits": np.ones(size, int), "weight": np.ones(size)}
    judged = quality.judge(examples, None, task="multi_label", num_outputs=num_tags)
    pictures, rows = rng.integers(0, 256, (200, 32, 32, 3), np.uint8), judged.order[:200]
    page = page_of(examples, judged, "multi_label", [*map(str, range(num_tags))], pictures, rows)
    cards = Page(page).data["cards"]
    assert len(page) < 5e6 and 50 < len(cards) < 200
    assert f"The {len(cards)} most suspicious labels" in page
    assert all("image" in card["inputs"][0] for card in cards)


def test_multi_label_and_regression():
    label = np.array([[1, 0], [0, -1], [1, 1]])
    margin = np.where(label < 0, 0, np.array([[-3.0, 2], [1, 0], [4, 5]]))
    examples = {"index": np.arange(3), "label": label, "margin": margin}
    examples |= {"visits": np.ones(3, int), "weight": np.ones(3)}
    judged = quality.judge(examples, None, task="multi_label", num_outputs=2)
    page = page_of(examples, judged, "multi_label", ("x", "y"))
    card = Page(page).data["cards"][0]
    assert card["given"] == {"present": [0], "unknown": []} and card["m"] == -3
    assert card["suggested"] == {"present": [], "unknown": []} and card["action"] == "relabel"
    text = " ".join(" ".join(Page(page).text).split())
    assert "tag examples to add to take away x 2 0 1 y 1 0 0" in text
    examples = {"label": np.array([1, 2, 30.5], np.float32), "margin": np.array([-1, -2, -50.0])}
    examples |= {"index": np.arange(3), "visits": np.ones(3, int), "weight": np.ones(3)}
    examples |= {"prediction": np.array([[1], [2], [3.25]], np.float32)}
    judged = quality.judge(examples, None, task="regression", num_outputs=1)
    card = Page(page_of(examples, judged, "regression", ())).data["cards"][0]
    assert (card["given"], card["suggested"], card["action"]) == ("30.5", "3.25", "relabel")
