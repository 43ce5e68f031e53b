"""From a packed corpus to batches: lanes of consecutive segments, or crops for Perceivers.

Everything random is a function of (seed, epoch, piece), so the whole state of a feed is a few integers, and a resumed
feed goes on exactly where it stopped. No torch here. Axes: B lanes, T = S tokens of one segment.
"""

from ritornello.feed.crops import SEGMENTATIONS, CropBatch, Crops
from ritornello.feed.lanes import Augmentation, Batch, Lanes, transposed

__all__ = ["SEGMENTATIONS", "Augmentation", "Batch", "CropBatch", "Crops", "Lanes", "transposed"]
