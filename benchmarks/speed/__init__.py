"""What searching costs: the searched convolution beside the plain one, in layers and in whole training steps."""
