"""Images: where a record keeps one, opening it as RGB within limits, checking all of a data set before training, and
the features that a frozen vision encoder makes of them."""

from zerogate.vision.check import ImageReport, check_images
from zerogate.vision.encoder import VisionEncoder, load_encoder
from zerogate.vision.features import image_features
from zerogate.vision.images import image_size, open_image
from zerogate.vision.source import ImageSource, source_from

__all__ = [
    "ImageReport",
    "ImageSource",
    "VisionEncoder",
    "check_images",
    "image_features",
    "image_size",
    "load_encoder",
    "open_image",
    "source_from",
]
