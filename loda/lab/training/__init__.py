"""From pairs of texts to saved adapters: examples, sampler, packing, loss, optimizer, loop, state, train."""
