"""Documents that others wrote, and older ones, to records of ours. Pure: bytes in, a record out."""

from llem.importing.convert import convert
from llem.importing.imported import Imported, Unmapped

__all__ = ["Imported", "Unmapped", "convert"]
