"""Files in the layout of the MS-TCN data release: features, labels, lists of videos and result files."""
