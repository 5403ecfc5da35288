"""Raw <-> codes. A modality has `encode`, `decode`, `size` (codes 0 .. size-1) and `fingerprint`.

    text.encode("a red ring") -> i32[n]          text.decode(codes) -> str
    image.encode(u8[b H W 3]) -> i32[b h w]      image.decode(codes) -> u8[b H W 3]
    location.encode(f32[n 4]) -> i32[n 4]        location.decode(codes) -> f32[n 4]
"""
from unitok.modalities.image import ImageModality
from unitok.modalities.location import LocationModality
from unitok.modalities.text import TextModality

MODALITIES: dict[str, type] = {"text": TextModality, "image": ImageModality, "location": LocationModality}
"""By the name of their block in the vocabulary."""
