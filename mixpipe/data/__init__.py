"""Where samples live: image folders, tars of encoded images, bytes from Python.

A *store* numbers its samples 0..N-1, knows their classes and sizes (the *index*) and hands out
their encoded bytes, by file name where each is a file of its own.
"""

from mixpipe.data.embedded import embedded
from mixpipe.data.folder import FolderStore
from mixpipe.data.index import DataError, Index, Names
from mixpipe.data.memory import BytesStore
from mixpipe.data.store import Store, open_store
from mixpipe.data.tar import TarStore

__all__ = [
    "BytesStore",
    "DataError",
    "FolderStore",
    "Index",
    "Names",
    "Store",
    "TarStore",
    "embedded",
    "open_store",
]
