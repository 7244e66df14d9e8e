"""Image files as inputs: a folder of class folders, or paths from a table."""

import concurrent.futures
import math
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from reweight_jax import startup
from reweight_jax.data.examples import LazyInputs, Part
from reweight_jax.errors import UserError, one_line
from reweight_jax.paths import expand, open_regular

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
IGNORED = ("thumbs.db", "desktop.ini")  # what file managers leave behind; so are hidden files
GRAY = ("1", "L", "LA")  # Pillow's modes of 8 bits or less without colour
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow would cut these off at 255
READ_THREADS = 8


class ImageFiles:
    """Image files as a source for `LazyInputs`: uint8 [N, H, W, C], decoded when indexed."""

    dtype = np.dtype(np.uint8)

    def __init__(self, paths: Sequence[pathlib.Path], shape: tuple[int, int, int], resize: bool):
        """`shape` is (H, W, C), with C = 1 (gray) or 3 (RGB); `resize` brings all to H x W."""
        self.shape = (len(paths), *shape)
        self._paths, self._resize = [str(path) for path in paths], resize

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([self.read(self._paths[row]) for row in rows])

    def read(self, path: str) -> np.ndarray:
        """Returns one image, uint8 [H, W, C]; UserError if the file is damaged."""
        height, width, channels = self.shape[1:]
        try:
            with warnings.catch_warnings(), Image.open(path) as image:
                warnings.simplefilter("ignore")  # of large images, and of details in the metadata
                image = image.convert("L" if channels == 1 else "RGB")
                if self._resize and image.size != (width, height):
                    image = image.resize((width, height), Image.Resampling.BILINEAR)
                return np.asarray(image).reshape(height, width, channels)
        except Exception as error:  # Pillow's decoders raise many kinds
            raise UserError(f"{path}: not a readable image ({one_line(error)})") from None

    def read_all(self) -> np.ndarray:
        """Returns all images, uint8 [N, H, W, C]."""
        array = np.empty(self.shape, np.uint8)
        with concurrent.futures.ThreadPoolExecutor(READ_THREADS) as pool:
            for row, image in enumerate(pool.map(self.read, self._paths)):
                array[row] = image
        return array


def open_images(
    paths: dict[str, list[pathlib.Path]],
    image_size: int,
    resident: bool,
    shape: tuple[int, int, int] | None = None,
) -> dict[str, np.ndarray | LazyInputs]:
    """Returns the images of each list of files, uint8 [N, H, W, C]: in memory, or read lazily.

    Images are gray (C = 1) if all of them are, RGB otherwise; transparency is dropped.

    Args:
      paths: split name -> files.
      image_size: S to resize all of them to S x S; 0 leaves them as they are.
      resident: whether to read them now.
      shape: (H, W, C) that they must have, as in training; None: decided by the files.

    Raises:
      UserError: a file that is no image, or images of different sizes; it names the files.
    """
    every = [path for part in paths.values() for path in part]
    headers = [_header(path) for path in every]
    if shape is None:
        width, height = (image_size, image_size) if image_size else headers[0][0]
        shape = (height, width, 1 if all(is_gray for _, is_gray in headers) else 3)
        expected = f"but {every[0]} is {width}x{height}"
    else:
        expected = f"but the training images are {shape[1]}x{shape[0]}"
    if not image_size:
        for path, (size, _) in zip(every, headers, strict=True):
            if size != shape[1::-1]:
                raise UserError(
                    f"{path}: is {size[0]}x{size[1]}, {expected}; "
                    "a run with config.data.image_size=S resizes all images to S x S"
                )
    files = {name: ImageFiles(part, shape, bool(image_size)) for name, part in paths.items()}
    size = len(every) * math.prod(shape)
    if resident and size > (startup.machine_memory() or size):
        raise UserError(
            f"config.data.resident: {size / 2**30:,.0f} GiB of images do not fit into memory; "
            "set it to False, or a smaller config.data.image_size"
        )
    if resident:
        return {name: source.read_all() for name, source in files.items()}
    return {name: LazyInputs(source) for name, source in files.items()}


def read_image_folder(fields) -> dict[str, Part]:
    """Reads folders with one sub-folder for each class, whose name is the label.

    config.data.path is the training set; clean_path, calibration_path and test_path are further
    parts. Images may lie in folders within a class folder.
    """
    folders = part_paths(fields, "folder")
    paths, labels = {}, {}
    for split, folder in folders.items():
        if not os.path.isdir(folder):
            raise UserError(f"{folder}: no such folder; config.data.{split_field(split)}")
        classes = _visible(folder)
        for entry in classes:
            if not entry.is_dir():
                raise UserError(f"{entry}: lies in no class folder; move it into one")
        found = {entry.name: list_images(entry) for entry in classes}
        for name, files in found.items():
            if not files and split == "train":
                raise UserError(f"{folder / name}: a class folder without an image; remove it")
        paths[split] = [path for files in found.values() for path in files]
        labels[split] = [name for name, files in found.items() for _ in files]
        if not paths[split]:
            raise UserError(f"{folder}: has no image in a class folder")
    images = open_images(paths, fields.image_size, fields.resident)
    return {
        split: Part(images[split], np.array(labels[split]), _names(split, folder, paths[split]))
        for split, folder in folders.items()
    }


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the image files in a folder and the folders within it, sorted by path.

    Hidden files are left out. UserError if another file is not an image.
    """
    files = []
    for entry in _visible(folder):
        if entry.is_dir():
            files += list_images(entry)
        elif entry.suffix.lower() in SUFFIXES:
            files.append(entry)
        else:
            raise UserError(f"{entry}: not an image; known are {', '.join(SUFFIXES)}")
    return files


def part_paths(fields, what: str) -> dict[str, pathlib.Path]:
    """Returns split -> path, from config.data.path and clean_path, calibration_path, test_path."""
    if not fields.path:
        raise UserError(f"config.data.path: empty; give the {what} to read")
    paths = {}
    for split in ("train", "clean", "calibration", "test"):
        value = fields[split_field(split)]
        if not value:
            continue
        path = expand(value)
        real = pathlib.Path(os.path.realpath(path))
        for other, taken in paths.items():
            if (real_taken := pathlib.Path(os.path.realpath(taken))) == real:
                raise UserError(
                    f"config.data.{split_field(split)}: {path} is config.data."
                    f"{split_field(other)} too; the parts must be different"
                )
            if real.is_relative_to(real_taken) or real_taken.is_relative_to(real):
                raise UserError(
                    f"config.data.{split_field(split)}: {path} and config.data."
                    f"{split_field(other)}, {taken}: one lies in the other, where folders are "
                    "classes; move it out"
                )
        paths[split] = path
    return paths


def split_field(split: str) -> str:
    """Returns the field of config.data that has the path of a split."""
    return "path" if split == "train" else f"{split}_path"


def _names(split, folder, paths):
    start = folder if split == "train" else folder.parent  # files of two folders may share a name
    return np.array([path.relative_to(start).as_posix() for path in paths])


def _visible(folder):
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in IGNORED]


def _header(path):
    """Returns ((width, height), is gray) of an image file, whose pixels are not decoded."""
    try:
        with warnings.catch_warnings(), open_regular(path) as file, Image.open(file) as image:
            warnings.simplefilter("ignore")
            size, mode = image.size, image.mode
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:
        raise UserError(f"{path}: not a readable image ({one_line(error)})") from None
    if mode in DEEP:
        raise UserError(f"{path}: has more than 8 bits per pixel and channel; save it with 8")
    return size, mode in GRAY
