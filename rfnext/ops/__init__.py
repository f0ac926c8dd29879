"""The operator of a searched convolution and its implementations.

The operator evaluates one kernel at several dilations and sums the results with probabilities. A branch is one of these
dilations. `mixed_dilation_conv.py` is the public function, `choice.py` decides how it is computed, and each
implementation has a file of its own. This is why it costs little more than a plain conv.

Notation. Branch i has probability p_i and dilation d_i, b is their number. k runs over the taps of the kernel, W_k is
the (channel_out, channel_in) matrix of tap k, and shift(x, s) is the padded input moved by s. g is the gradient of the
loss L for the output y.

The identity. All branches share one kernel, so the sum over branches can be taken inside the sum over taps:

    y = sum_i p_i conv(x, W, d_i) = sum_i p_i sum_k W_k shift(x, k d_i) = sum_k W_k m_k
    with m_k = sum_i p_i shift(x, k d_i)

Computing the mixed input m_k takes b multiply-adds per element. The product W_k m_k takes channel_out of them, once per
tap. Branch by branch, it would be computed b times. The gradients have the same form:

    dL/dW_k = g m_k^T                                       one product
    u_k = W_k^T g                                           one product
    dL/dx   = sum_i p_i z_i, z_i = sum_k shift(u_k, -k d_i)  shifted sums of u
    dL/dp_i = <z_i, x>                                       the same z
    dL/db   = (sum_i p_i) sum g

The cost. A step takes three products, as that of a plain conv. In addition, 3 b k passes over an array of the input's
size mix the input in the forward pass, mix it again in the backward pass and gather the z_i. They stay in the cache if
done piece by piece. The sums over the z_i take 2 b more. The centre tap of a conv that keeps the size needs none. Only
x is kept for the backward pass; branch by branch, an output per branch is kept.

A pass takes 2 operations per element and a product 2 channel_out, so the share of the passes falls with the number of
channels and is the same for every batch and length. An example: 8 x 64 x 2000 frames, kernel 3, 3 branches, one thread
of an AMD EPYC, where oneDNN's plain conv takes 18 to 22 ms.

- `taps` calls torch tap by tap, on chunks of the batch that fit a core's cache: 20.9 ms. Of these, 9 products (3 per
  tap) take 14.2 ms at 83 GFLOP/s, 24 passes take 4.8 ms at 60 GB/s, and some 500 calls take the rest. Threads share the
  products and passes, but not the calls: on two threads it takes 1.2 to 1.4 times the plain conv.
- `native`, written in C, mixes a tile of some hundred positions right before it multiplies it: 18 ms, two thirds of it
  for the products. On two threads it takes 0.7 to 0.9 times the plain conv, since it uses memory less often.

`python -m benchmarks.speed` measures every layer. In depthwise convs W_k has a single column, so there is no product to
share: `depthwise.py` convolves them with one scaled kernel per branch, and `native.c` sums all taps of all branches in
registers.
"""
