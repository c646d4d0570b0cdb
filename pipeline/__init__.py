"""edgenas: from a data set to checked INT8 firmware on a microcontroller."""

__version__ = "0.1.0"
