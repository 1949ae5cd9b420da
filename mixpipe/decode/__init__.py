"""From a plan's decode jobs to pixels: the DALI graph and what drives it."""

from mixpipe.decode.cached import CachedDecoder
from mixpipe.decode.decoder import DecodeError, Decoder

__all__ = ["CachedDecoder", "DecodeError", "Decoder"]
