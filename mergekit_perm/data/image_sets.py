"""From data sets of pictures to splits of tensors: sizes, channels, statistics, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from mergekit_perm.data import fingerprints
from mergekit_perm.data.images import CROP_MODES, INTERPOLATIONS, Decoded, Geometry, Pictures
from mergekit_perm.data.requests import Request
from mergekit_perm.data.splits import Data, InMemory, Split
from mergekit_perm.errors import DataError, suggest

OPTIONS = (
    "channels",
    "crop_mode",
    "crop_pct",
    "interpolation",
    "mean",
    "size",
    "std",
    "workers",
)

# Splits up to this size are decoded once and kept as bytes.
_KEPT_BYTES = 2 * 2**30
# Of larger ones, statistics are those of this many pictures, spread evenly.
_SAMPLED = 4096
_PROBED = 8
_CHUNK = 1024

Prepared = InMemory | Decoded
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def load(
    request: Request,
    *,
    open_split: Callable[[str], Pictures],
    num_classes: Callable[[Pictures], int | None],
    resize: bool,
) -> Data:
    """Return the data set whose pictures `open_split` finds.

    Mean and standard deviation per channel are the options', the network's, or those of the
    training pictures, in this order. The size is the option's, or the network's where `resize`
    says so, where it takes no other, or where pictures differ in size.

    Args:
        request: what is asked for; the options in `OPTIONS` are read here.
        open_split: returns the pictures of a split, as (PIL image, class).
        num_classes: returns how many classes there are, or None when only the labels tell.
        resize: whether pictures are always brought to the size the network was made for.

    Raises:
        DataError: for pictures that cannot be used as asked.
    """
    _check_options(request)
    opened = {name: open_split(name) for name in request.splits}
    _check_length(opened, request)
    first = opened[request.splits[0]]
    mode = _mode(first, request)
    geometry = _geometry(list(opened.values()), request, resize=resize)

    def prepared(pictures: Pictures) -> Prepared:
        return _kept(Decoded(pictures, mode, geometry), request)

    datasets = {name: prepared(pictures) for name, pictures in opened.items()}
    mean, std = _statistics(
        request, lambda: datasets.get("train") or prepared(_training(open_split, request)), mode
    )
    for dataset in datasets.values():
        dataset.mean, dataset.std = mean, std
    count = num_classes(first) or 1 + max(_largest(d, request) for d in datasets.values())
    for name, dataset in datasets.items():
        _check_labels(dataset, name, count, request)
    return _data(request, datasets, count)


def _data(request: Request, datasets: Mapping[str, Prepared], num_classes: int) -> Data:
    workers = request.whole("workers", least=0)
    splits = {
        name: Split(
            name,
            dataset,
            workers=workers,
            fingerprint=fingerprints.of_dataset(dataset, about=(dataset.mean, dataset.std)),
        )
        for name, dataset in datasets.items()
    }
    return Data(
        name=request.source,
        splits=splits,
        num_classes=num_classes,
        input_shape=splits[request.splits[0]].input_shape,
        fingerprint=fingerprints.combined((s.name, s.fingerprint) for s in splits.values()),
    )


def _check_options(request: Request) -> None:
    """Read every option once, so that a mistake is found before any picture is."""
    request.channels()
    request.share("crop_pct")
    request.size()
    request.whole("workers", least=0)
    _named(request, "interpolation", "bilinear", INTERPOLATIONS)
    _named(request, "crop_mode", "center", CROP_MODES)
    request.numbers("mean")
    std = request.numbers("std")
    if std is not None and min(std) <= 0:
        raise request.error(f"std is {list(std)}; every channel needs a number above 0")


def _check_length(opened: Mapping[str, Pictures], request: Request) -> None:
    for name, pictures in opened.items():
        if not len(pictures):
            raise request.error(f"split '{name}' has no pictures")


def _training(open_split: Callable[[str], Pictures], request: Request) -> Pictures:
    try:
        pictures = open_split("train")
    except DataError as cause:
        raise request.error(
            "mean and std come from the training pictures, which are not there; "
            "give the options mean and std, one number per channel"
        ) from cause
    _check_length({"train": pictures}, request)
    return pictures


# ----------------------------------------------------------------------------------- pictures


def _mode(pictures: Pictures, request: Request) -> str:
    """Return PIL's mode for the channels that are wanted, or else that the pictures have."""
    channels = request.channels()
    if channels is None:
        picture = Decoded(pictures, "", None).picture(0)[0]
        channels = 1 if picture.mode in ("1", "L", "I", "I;16", "F") else 3
    return "L" if channels == 1 else "RGB"


def _geometry(opened: list[Pictures], request: Request, *, resize: bool) -> Geometry | None:
    wanted = request.preprocessing
    size = request.size()
    if size is None and wanted is not None and (resize or wanted.fixed_size):
        size = wanted.input_size[1:]
    if size is None and _uniform(opened):
        return None
    if size is None and wanted is not None:
        size = wanted.input_size[1:]
    if size is None:
        raise request.error("pictures differ in size; give the option size, such as 64")
    return _to_size(size, request)


def _to_size(size: tuple[int, int], request: Request) -> Geometry:
    wanted = request.preprocessing
    crop_pct = request.share("crop_pct") or (wanted.crop_pct if wanted else 1.0)
    return Geometry(
        size=size,
        crop_pct=crop_pct,
        interpolation=_named(
            request, "interpolation", wanted.interpolation if wanted else "bilinear", INTERPOLATIONS
        ),
        crop_mode=_named(
            request, "crop_mode", wanted.crop_mode if wanted else "center", CROP_MODES
        ),
    )


def _named(request: Request, option: str, default: str, known: tuple[str, ...]) -> str:
    value = request.options.get(option, default)
    if value not in known:
        hint = suggest(str(value), known)
        raise request.error(f"{option} is {value!r}, not one of {', '.join(known)}{hint}")
    return str(value)


def _uniform(opened: list[Pictures]) -> bool:
    """Return whether the first pictures have one size; `_kept` meets any later ones."""
    sizes = {
        decoded.picture(index)[0].size
        for decoded in (Decoded(pictures, "", None) for pictures in opened)
        for index in range(min(_PROBED, len(decoded)))
    }
    return len(sizes) == 1


def _kept(decoded: Decoded, request: Request) -> Prepared:
    """Return the pictures in memory when they take little enough of it."""
    shape = decoded.pixels(0)[0].shape
    if len(decoded) * shape.numel() > _KEPT_BYTES:
        return decoded
    pixels = torch.empty((len(decoded), *shape), dtype=torch.uint8)
    labels = torch.empty(len(decoded), dtype=torch.int64)
    for index in range(len(decoded)):
        one, label = decoded.pixels(index)
        if one.shape != shape:
            raise request.error(
                f"pictures differ in size: {_edges(shape)} and, at {index}, {_edges(one.shape)}; "
                "give the option size, such as 64"
            )
        pixels[index], labels[index] = one, label
    return InMemory(pixels, labels)


def _edges(shape: torch.Size) -> str:
    return f"{shape[1]}x{shape[2]}"


# --------------------------------------------------------------------------- statistics, classes


def _statistics(request: Request, train: Callable[[], Prepared], mode: str) -> Statistics:
    wanted = request.preprocessing
    mean = request.numbers("mean") or (wanted.mean if wanted else None)
    std = request.numbers("std") or (wanted.std if wanted else None)
    if mean is None or std is None:
        measured = _measured(train())
        mean, std = mean or measured[0], std or measured[1]
    channels = 1 if mode == "L" else 3
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise request.error(
                f"{name} has {len(values)} numbers, the pictures have {channels} channels"
            )
    return mean * (channels // len(mean)), std * (channels // len(std))


def _measured(train: Prepared) -> Statistics:
    """Return mean and standard deviation per channel, of pixels scaled to 0..1."""
    # Counts of the 256 values are whole numbers, so the order of summation cannot matter.
    counts = torch.stack([_histogram(pixels) for pixels in _chunks(train)]).sum(0).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(1)
    mean = (counts * values).sum(1) / total
    variance = (counts * (values - mean[:, None]).square()).sum(1) / total
    # A channel without any variation is only centred.
    return tuple(mean.tolist()), tuple(std or 1.0 for std in variance.sqrt().tolist())


def _chunks(train: Prepared) -> Iterator[torch.Tensor]:
    """Yield bytes of shape (n, channels, height, width) of the pictures to be measured."""
    if isinstance(train, InMemory):
        yield from torch.split(train.inputs, _CHUNK)
        return
    count = min(len(train), _SAMPLED)
    for place in range(count):
        yield train.pixels(place * len(train) // count)[0][None]


def _histogram(pixels: torch.Tensor) -> torch.Tensor:
    """Return how often each byte occurs, shape (channels, 256), int64."""
    return torch.stack([torch.bincount(p.flatten(), minlength=256) for p in pixels.unbind(1)])


def _largest(dataset: Prepared, request: Request) -> int:
    labels = _labels(dataset)
    if labels is None:
        raise request.error("how many classes there are is not said; the data set has no `classes`")
    return max(labels)


def _labels(dataset: Prepared) -> list[int] | None:
    if isinstance(dataset, InMemory):
        return dataset.labels.tolist()
    return labels_of(dataset.pictures)


def _check_labels(dataset: Prepared, name: str, count: int, request: Request) -> None:
    for index, label in enumerate(_labels(dataset) or ()):
        if not 0 <= label < count:
            raise request.error(
                f"split '{name}': the class of example {index} is {label}, "
                f"not one of 0..{count - 1}"
            )


def labels_of(pictures: Pictures) -> list[int] | None:
    """Return the class of every picture where the data set lists them, without reading any."""
    for attribute in ("targets", "labels", "_labels", "y"):
        listed = getattr(pictures, attribute, None)
        if listed is not None and len(listed) == len(pictures):
            return [int(label) for label in listed]
    return None
