"""The operator of a searched convolution and its implementations."""
