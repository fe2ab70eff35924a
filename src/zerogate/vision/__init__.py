"""Images: where a record keeps one, opening it as RGB within limits, and checking all of a data set before training."""

from zerogate.vision.check import ImageReport, check_images
from zerogate.vision.images import image_size, open_image
from zerogate.vision.source import ImageSource, source_from

__all__ = ["ImageReport", "ImageSource", "check_images", "image_size", "open_image", "source_from"]
