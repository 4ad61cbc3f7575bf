# Tests of the training engine: plan, parameters, positions, optimizer, the whole model.
lh_test(test_llama SOURCES unit/test_llama.c unit/tiny_model.c LINK lh_model kn)
