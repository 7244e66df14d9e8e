"""What a report shows of an example's inputs: a small picture, text, token ids, or features."""

import base64
import io
import json

import numpy as np
from PIL import Image

SMALL_SIDE = 64  # up to here a picture is a PNG, without loss
LOSSES = ((160, 80), (160, 60), (128, 50), (96, 40), (64, 30))  # (longest side, JPEG quality)
NUM_FEATURES, NUM_TOKENS, NUM_CHARACTERS, NUM_INPUTS = 24, 96, 600, 4


def shown_inputs(inputs, columns: tuple[str, ...] = (), *, max_bytes: int) -> list[list[dict]]:
    """Returns what is shown of R examples: for each a list of blocks, one for each input array.

    Args:
      inputs: array [R, ...] or a dict of them, of which the first few by name are shown.
        [R, H, W] and [R, H, W, C] are pictures, and so is [R, C, H, W] with 1 or 3 channels;
        strings are text, integers [R, L] token ids, and other numbers [R, D] features.
      columns: names of the features.
      max_bytes: of the pictures of one example.

    Returns:
      Blocks as JSON: {"name"} if there are several inputs, and one of {"image": data URI, "small"},
      {"text"}, {"tokens"}, {"features": [[name, value], ...]}; "more" counts what is left out.
    """
    is_dict = isinstance(inputs, dict)
    arrays = dict(list(inputs.items())[:NUM_INPUTS]) if is_dict else {"": inputs}
    arrays = {str(name): np.asarray(array) for name, array in arrays.items()}
    each = max_bytes // max(1, sum(map(_is_picture, arrays.values())))
    shown = []
    for name, array in arrays.items():
        if _is_picture(array):
            blocks = [_picture(pixels, each) for pixels in _pixels(array)]
        else:
            blocks = _blocks(array, columns, NUM_CHARACTERS // len(arrays))
        shown.append([{"name": name} | block if is_dict else block for block in blocks])
    return list(map(list, zip(*shown, strict=True)))


def page_json(content) -> str:
    """Returns JSON in ASCII that cannot end the <script> element that holds it."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _is_picture(array):
    return array.ndim in (3, 4) and array.dtype.kind in "buif"


def _blocks(array, columns, num_characters):
    """The blocks of an array that is no picture."""
    if array.dtype.kind not in "buif":
        texts = array if array.ndim == 1 else array.tolist()
        return [_cut("text", str(text), num_characters) for text in texts]
    rows = array.reshape(len(array), -1)
    if array.ndim == 2 and array.dtype.kind in "iu" and not columns:
        return [_cut("tokens", row, NUM_TOKENS) for row in rows.tolist()]
    names = columns if len(columns) == rows.shape[1] else range(rows.shape[1])
    blocks = [_cut("features", row, NUM_FEATURES) for row in rows.tolist()]
    for block in blocks:
        pairs = zip(names, block["features"], strict=False)
        block["features"] = [[str(name)[:80], f"{value:.4g}"] for name, value in pairs]
    return blocks


def _cut(key, whole, length):
    more = {"more": len(whole) - length} if len(whole) > length else {}
    return {key: whole[:length]} | more


def _pixels(array):
    """[R, H, W], [R, H, W, C] or [R, C, H, W] of any numbers -> uint8 [R, H, W] or [R, H, W, 3]."""
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[-1] > 4:
        array = np.moveaxis(array, 1, -1)
    if array.ndim == 4 and array.shape[-1] != 3:
        array = array[..., :3] if array.shape[-1] == 4 else array[..., 0]
    if array.dtype == np.uint8:
        return array
    # Of standardised floats nobody knows the scale: all pictures share the one they span.
    values = np.nan_to_num(array.astype(np.float32), posinf=0, neginf=0)
    low, high = min(values.min(), 0), values.max()
    return np.round(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)


def _picture(pixels, max_bytes):
    """A block with the picture, as large and as good as `max_bytes` of base64 allow."""
    image = Image.fromarray(pixels)
    side = max(image.size)
    if side <= SMALL_SIDE:
        uri = _data_uri(image, "PNG")
        if len(uri) <= max_bytes:
            return {"image": uri, "small": True}
    for longest, quality in LOSSES:
        smaller = image.copy()
        smaller.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        uri = _data_uri(smaller, "JPEG", quality=quality)
        if len(uri) <= max_bytes:
            return {"image": uri} | ({"small": True} if side <= SMALL_SIDE else {})
    return {"text": "(no room for the picture)"}


def _data_uri(image, kind, **options):
    file = io.BytesIO()
    image.save(file, format=kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
