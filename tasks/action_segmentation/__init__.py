"""Action segmentation: one label per frame of a video, on the layout of the MS-TCN data release."""
