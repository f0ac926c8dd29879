"""Speech synthesis from log-mel spectrograms: convolutional vocoders, their data, training and metrics."""
