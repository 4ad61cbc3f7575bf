# Tests of positions and optimizer beside those of unit/engine.cmake: each constant and each branch on its own.
lh_test(test_rope_schemes SOURCES unit/test_rope_schemes.c LINK lh_model)
lh_test(test_optim SOURCES unit/test_optim.c LINK lh_optim kn)
